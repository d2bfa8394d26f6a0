"""The ops' Triton kernels on the CPU, under Triton's interpreter."""

import contextlib


@contextlib.contextmanager
def interpreted_kernels():
    """Inside, CPU tensors go where CUDA tensors would; `conftest.py` has chosen the interpreter."""
    from nfkern.bench.kernels.kernel_launches import kernels_on_cpu
    from nfkern.kernels.coupling.triton_kernels import flow_kernel

    assert type(flow_kernel).__name__ == "InterpretedFunction", "Triton was imported before TRITON_INTERPRET was set"
    with kernels_on_cpu():
        yield
