"""Distances of intervals: a quasimetric, and the lengths of unions counted by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nfkern.algorithms.agents.goals.quasimetric import GROUP, IntervalDistance


def union_length(intervals):
    """Length of a union of intervals, found by merging them in order."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(intervals):
        if stop > start:
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
    return total


def by_hand(x, y, share):
    groups = [
        union_length(list(zip(x[i : i + GROUP].tolist(), y[i : i + GROUP].tolist(), strict=True)))
        for i in range(0, len(x), GROUP)
    ]
    return share * sum(groups) / len(groups) + (1 - share) * max(groups)


def distance_and_latents(seed, count):
    """Distances with a share of 0.3, and latents some of whose numbers coincide."""
    generator = torch.Generator().manual_seed(seed)
    distance = IntervalDistance().double()
    torch.nn.init.constant_(distance.share, math.log(0.3 / 0.7))
    latents = torch.randn(count, 5, 3 * GROUP, generator=generator, dtype=torch.float64)
    return distance, ((4 * latents).round() / 4).unbind()


@given(seed=st.integers(0, 999))
def test_a_distance_is_the_length_of_unions(seed):
    distance, (x, y) = distance_and_latents(seed, 2)
    expected = torch.tensor([by_hand(*row, 0.3) for row in zip(x, y, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(distance(x, y), expected)


@given(seed=st.integers(0, 999))
def test_distances_are_a_quasimetric(seed):
    distance, (x, y, z) = distance_and_latents(seed, 3)
    assert not distance(x, x).any()
    assert (distance(x, y) >= 0).all()
    assert (distance(x, z) <= distance(x, y) + distance(y, z) + 1e-12).all()
    # All of y is to the right of x: far in one direction, at no distance in the other.
    right = torch.maximum(x, y)
    assert not distance(right, x).any()
    assert (distance(x, right) > 0).all()


def test_gradients_are_those_of_finite_differences():
    distance = IntervalDistance().double()
    x, y = torch.randn(2, 4, 2 * GROUP, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.autograd.gradcheck(distance, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_mixes_mean_and_largest(share):
    distance = IntervalDistance()
    torch.nn.init.constant_(distance.share, 50.0 if share else -50.0)
    x, y = torch.zeros(3 * GROUP), torch.tensor([1.0, 2.0, 6.0]).repeat_interleave(GROUP)
    torch.testing.assert_close(distance(x, y), torch.tensor(3.0 if share else 6.0))
