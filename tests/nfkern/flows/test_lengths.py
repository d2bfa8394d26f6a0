"""Padded sequences have the density of what is not padding, in values and derivatives."""

import pytest
import torch
from support import flows

LENGTHS = [[3, 5, 2], [5, 3, 3]]


@pytest.mark.parametrize("name", list(flows.CAUSAL_OPTIONS))
def test_equals_each_sequence_alone(name):
    flow = flows.make_causal(name).eval()
    torch.manual_seed(0)
    shape = (2, 3, flow.tokens, flow.features)
    x = torch.rand(shape, dtype=torch.float64) - 0.5
    # One context for both rows of the batch.
    context = torch.randn(3, flow.context_features, dtype=torch.float64) if flow.context_features else None
    lengths = torch.tensor(LENGTHS).clamp(max=flow.tokens)
    padded = x.masked_fill(torch.arange(flow.tokens)[:, None] >= lengths[..., None, None], torch.nan)
    found = flow(padded, context, lengths=lengths)
    assert found.shape == (2, 3)

    expected = torch.stack(
        [flow(x[i, j, : lengths[i, j]], None if context is None else context[j]) for i in range(2) for j in range(3)]
    ).view(2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    parameters = list(flow.parameters())
    weights = torch.randn(2, 3, dtype=torch.float64)
    one, other = (
        torch.autograd.grad((each * weights).sum(), parameters, allow_unused=True) for each in (found, expected)
    )
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_full_lengths_and_none_at_all():
    flow = flows.make_causal("prefix")
    x, context = flows.make_inputs(flow, 4)
    whole = flow(x, context, lengths=torch.full((4,), flow.tokens))
    torch.testing.assert_close(whole, flow(x, context), rtol=1e-12, atol=1e-12)
    assert flow(x[:0], context[:0], lengths=torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (
            torch.tensor([1, 2, 3]),
            ValueError,
            r"lengths: expected shape \(4,\), a number for each sequence, got \(3,\)",
        ),
        (torch.tensor([1, 2, 0, 1]), ValueError, "lengths: expected 1 to 5, got 0 to 2"),
        (torch.tensor([1, 2, 9, 1]), ValueError, "lengths: expected 1 to 5, got 1 to 9"),
        (torch.ones(4), TypeError, "lengths: expected a tensor of whole numbers, got torch.float32"),
        ([1, 2, 3, 4], TypeError, "lengths: expected a tensor of whole numbers, got list"),
    ],
)
def test_bad_lengths(lengths, error, message):
    flow = flows.make_causal("prefix")
    x, context = flows.make_inputs(flow, 4)
    assert flow.tokens == 5
    with pytest.raises(error, match=message):
        flow(x, context, lengths=lengths)


def test_a_projected_context_is_refused():
    flow = flows.make_causal("prefix")
    x, context = flows.make_inputs(flow, 4)
    with pytest.raises(ValueError, match="context: expected a tensor or None beside lengths"):
        flow.log_prob(x, flow.condition(context).projected, lengths=torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"context: expected a batch that broadcasts to \(4,\)"):
        flow(x, torch.cat([context, context]), lengths=torch.ones(4, dtype=torch.int64))
