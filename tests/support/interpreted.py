"""The ops' Triton kernels on the CPU, under Triton's interpreter."""

import contextlib
from unittest.mock import patch


@contextlib.contextmanager
def interpreted_kernels():
    """Inside, CPU tensors go where CUDA tensors would; `conftest.py` has chosen the interpreter."""
    from triton.runtime import interpreter

    from nfkern.bench.kernels.kernel_launches import kernels_on_cpu
    from nfkern.kernels.coupling.triton_kernels import flow_kernel

    assert type(flow_kernel).__name__ == "InterpretedFunction", "Triton was imported before TRITON_INTERPRET was set"
    original = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        """Triton 3.6 makes an integer of an array of one element, in one dimension, which numpy 2.5 refuses."""
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with patch.object(interpreter, "_patch_lang_tensor", patched), kernels_on_cpu():
        yield
