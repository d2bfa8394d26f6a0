"""The error table measures what it says, and what it says holds."""

import pytest
import torch
from support import flows

from nfkern import numerics


@pytest.mark.parametrize("name", ["paper", "unconditional", "scale_bound", "causal_published", "causal_prefix"])
def test_errors_are_of_the_size_of_each_precision(name):
    flow = flows.make(name, torch.float32)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    found = numerics.errors(flow, 100)
    known = {key: dtype for key, dtype in numerics.PRECISIONS.items() if dtype != torch.int8 or "causal" not in name}
    assert list(found) == list(known)
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())
    # Five units of rounding in x at most, and at least a fiftieth of one: each row was computed in its own precision.
    for key, dtype in known.items():
        eps = 1 / 127 if dtype == torch.int8 else torch.finfo(dtype or torch.float32).eps
        assert eps / 50 < found[key].x < 5 * eps, key


def test_a_wrong_frozen_flow_shows(monkeypatch):
    flow = flows.make_flow(dtype=torch.float32)
    honest = flow.freeze

    def wrong(dtype):
        frozen = honest(dtype)
        frozen.hidden_bias.add_(0.1)
        return frozen

    monkeypatch.setattr(flow, "freeze", wrong)
    found = numerics.errors(flow, 50)
    assert found["frozen float32"].x > 1e3 * found["training float32"].x
    assert found["frozen float32"].log_prob > 1e3 * found["training float32"].log_prob
    assert found["frozen float32"].score > 1e3 * found["training float32"].score


BOUNDS = {"frozen float32": (1e-6, 2e-5), "frozen bfloat16": (1e-2, 2e-1), "frozen int8": (1e-2, 2e-1)}


@pytest.mark.slow
def test_the_papers_shapes_keep_the_documented_bounds():
    state = torch.random.get_rng_state()
    make = next(iter(numerics.SHAPES.values()))
    flow = numerics.perturb(make(), torch.Generator().manual_seed(0))
    found = numerics.errors(flow)
    # Bounds of the project on random weights: relative in x, nats in log p.
    for key, (x, log_prob) in BOUNDS.items():
        assert found[key].x < x
        assert found[key].log_prob < log_prob
    torch.random.set_rng_state(state)
    lines = numerics.table(rows=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(lines) == len(numerics.SHAPES) * (2 + len(numerics.PRECISIONS)) - 1
    assert "D 42, context 256" in "\n".join(lines)
