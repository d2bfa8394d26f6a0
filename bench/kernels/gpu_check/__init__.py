"""`make gpu-check`: are the kernels right on this GPU, and how fast are they? Needs torch, triton and numpy only."""
