"""Work of the host for a call on a GPU, counted where there is none."""

import pytest
from support.compiling import run_compiling

pytest.importorskip("triton", reason="the kernels are Triton's")


def test_a_call_for_one_row_stays_cheap():
    """Functions called, not seconds: of Triton's launcher alone, each of seven launches would call about 70."""
    code = """
from nfkern.bench.kernels.host_cost import calls, fake_gpu, functions_called
most = {"frozen inverse": (7, 600), "frozen denoised action": (14, 1000), "inverse": (8, 720)}
with fake_gpu() as launched:
    for name, call in calls().items():
        call()
        launched.clear()
        call()
        launches, functions = most.pop(name)
        assert launched.total() == launches, (name, launched)
        assert functions_called(call) <= functions, (name, functions_called(call))
assert not most
"""
    result = run_compiling(code)
    assert result.returncode == 0, result.stderr


def test_the_kernel_that_is_remembered_is_the_one_that_triton_would_choose():
    """By dtype and alignment of tensors, by numbers that Triton takes for constants or needs 64 bits for."""
    code = """
import itertools, torch
from nfkern.bench.kernels.host_cost import fake_gpu
from nfkern.kernels.base.triton_kernels import log_prob_kernel
from nfkern.kernels.dispatch.triton_backend import Launcher
numbers = torch.zeros(64)
tensors = (numbers, numbers[1:], numbers[4:], numbers.double(), numbers.half())
with fake_gpu():
    kinds = set()
    for z, result, count, warps in itertools.product(tensors, tensors[:2], (1, 2, 16, 32, 1 << 31, 1 << 40), (4, 8)):
        arguments, options = (z, result, count, 0.5), dict(SIZE=3, PADDED=16, TILE=4, num_warps=warps)
        for _ in range(2):
            launcher = Launcher(log_prob_kernel, *arguments, **options)
            launcher((1,))
            launcher((1,))
            theirs = log_prob_kernel[(1,)](*arguments, **options)
            assert launcher._compiled._kernel is theirs, arguments
        kinds.add(theirs)
    assert len(kinds) > 20, len(kinds)
"""
    result = run_compiling(code)
    assert result.returncode == 0, result.stderr
