"""Which kernels calls would launch on a GPU, found on tensors without data."""

from collections import Counter

import pytest
import torch

pytest.importorskip("triton", reason="the kernels are Triton's")

from nfkern.bench.core.cases import CASES
from nfkern.bench.kernels.kernel_launches import kernels_of
from nfkern.bench.problems.flow_problem import random_flow


def test_views_and_empty_memory_launch_nothing():
    x = torch.empty(4, 6, device="meta")
    assert not kernels_of(lambda: torch.empty_like(x[:2].T.unsqueeze(0)))
    assert kernels_of(lambda: torch.cat([x + 1, x.sum(0, keepdim=True)])) == {"add": 1, "sum": 1, "cat": 1}


def test_kernels_of_a_training_step():
    """Forward and backward pass of the paper's flow at its batch size, without encoder and optimiser."""
    flow = random_flow(CASES["ogbench"]).to("meta")
    x, context = torch.empty(256, 5, device="meta"), torch.empty(256, 64, device="meta", requires_grad=True)
    found = kernels_of(lambda: torch.autograd.grad(-flow(x, context).mean(), (context, *flow.parameters())))
    blocks = flow.blocks
    triton = {
        "compose_kernel": 1,
        "compose_backward_kernel": 1,
        # Before the forward pass, and again before the backward pass.
        "fold_kernel": 2,
        # Backward, hidden units are computed again in one launch.
        "forward_step_kernel": blocks + 1 + 1,
        "backward_step_kernel": blocks + 1,
        "parameter_gradients_kernel": 1,
        "log_prob_kernel": 1,
        "log_prob_backward_kernel": 1,
    }
    # The context's projection, the sum of two log-densities, and their mean.
    forward = {"addmm": 1, "add": 1, "mean": 1, "neg": 1}
    # The mean's derivative; products over the rows and sums over them, of four weights, two biases and of the mixing's
    # log-determinant; and the projection's derivative.
    backward = {"ones_like": 1, "div": 1, "neg": 1, "matmul": 4, "sum": 3 + 1, "mm": 2}
    # The permutation, which never lies on "meta", is not copied on a GPU.
    expected = Counter(triton) + Counter(forward) + Counter(backward) + Counter({"_to_copy": 1})
    assert found == expected
    assert found.total() - 1 == 39
