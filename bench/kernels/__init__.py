"""Resources of compiled Triton kernels, and checks on a GPU."""
