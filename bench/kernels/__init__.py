"""What compiled Triton kernels use, and checks on a GPU."""
