"""What tests of native kernels share."""

import pytest
import torch


@pytest.fixture
def _poisoned():
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
