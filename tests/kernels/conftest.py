"""What tests of native kernels share."""

import pytest
import torch
from support import aarch64
from support.selected import selected

from nfkern.kernels import registered_backends
from nfkern.kernels.dispatch import native_extension

WITHOUT_KERNEL = "causal_flow_to_latent_backward"


@pytest.fixture(scope="session")
def device(request):
    """The device of `--device`."""
    found = torch.device(request.config.getoption("device"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.exit(f"--device {found}: torch {torch.__version__} finds no GPU here, so nothing was checked", 2)
    return found


@pytest.fixture
def _poisoned():
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def _native():
    """Refuse to pass on the reference: `make test` builds the extension, so that its absence is a failure."""
    assert not native_extension.device_reasons(torch.device("cpu"))
    backends = registered_backends("cpu")
    # Its derivative alone runs the reference.
    native = {name for name in backends if name.startswith(("coupling", "causal")) and name != WITHOUT_KERNEL}
    assert {backends[name] for name in native} == {"native"}


NATIVE = native_extension.instruction_sets() or ["none"]


@pytest.fixture(params=selected((*NATIVE, *aarch64.COMPILERS), NATIVE, part="arm"))
def instruction_set(request, _native):
    """Each instruction set that this machine has, and 64-bit ARM by emulation."""
    arm = request.param in aarch64.COMPILERS
    with (aarch64.use if arm else native_extension.use_instruction_set)(request.param):
        yield request.param
