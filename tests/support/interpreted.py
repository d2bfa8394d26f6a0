"""The ops' Triton kernels on the CPU, under Triton's interpreter."""

import contextlib
import dataclasses
import warnings

import torch

from nfkern.kernels.dispatch import registry


@contextlib.contextmanager
def interpreted_kernels():
    """Inside, CPU tensors go where CUDA tensors would; `conftest.py` has chosen the interpreter."""
    from nfkern.kernels.coupling.triton_kernels import flow_kernel

    assert type(flow_kernel).__name__ == "InterpretedFunction", "Triton was imported before TRITON_INTERPRET was set"
    library = torch.library.Library("nfkern", "IMPL")
    try:
        with warnings.catch_warnings():
            # For the time being they stand before the native CPU kernels.
            warnings.filterwarnings("ignore", "Warning only once for all operators")
            for (name, device_type), native in registry._kernels.items():
                if device_type == "cuda":
                    here = dataclasses.replace(native, device_reasons=lambda device: ())
                    library.impl(name, registry.kernel_or_reference(name, here), "CPU")
        yield
    finally:
        library._destroy()
