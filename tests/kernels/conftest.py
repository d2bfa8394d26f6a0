"""What tests of native kernels share."""

import pytest
import torch

from nfkern.kernels import native_extension, registered_backends

NO_EXTENSION = pytest.mark.skip(reason="the C++ extension is not built here")


@pytest.fixture
def _poisoned():
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def _native():
    """Refuse to pass on the reference."""
    if not native_extension.instruction_sets():
        pytest.skip("the C++ extension is not built here")
    backends = registered_backends("cpu")
    assert {backends[name] for name in backends if name.startswith("coupling")} == {"native"}


@pytest.fixture(params=native_extension.instruction_sets() or [pytest.param("none", marks=NO_EXTENSION)])
def instruction_set(request, _native):
    """Each instruction set that this machine has."""
    with native_extension.use_instruction_set(request.param):
        yield request.param
