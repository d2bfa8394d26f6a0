"""Densities of many points by tables: near the flow's own, and refined where that takes it."""

import pytest
import torch

from nfkern import CouplingFlow
from nfkern.flows.tabulated import tabulated_log_prob_2d
from nfkern.numerics import perturb


def flow_of(seed: int = 0, **options: object) -> CouplingFlow:
    torch.manual_seed(seed)
    arguments = {"context_features": 8, "blocks": 4, "hidden": (32, 24)} | options
    return perturb(CouplingFlow(2, **arguments), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale_bound", [None, 1.5])
def test_tables_give_the_flows_density(seed: int, scale_bound: float | None) -> None:
    flow, context = flow_of(seed, scale_bound=scale_bound), torch.randn(8)
    x = 2 * torch.randn(50, 60, 2)
    exact = flow.double().log_prob(x.double(), context.double())
    found = tabulated_log_prob_2d(flow.float(), x, context.float())
    assert found.shape == (50, 60)
    assert (found - exact).abs().max() < 0.02
    assert (found - exact).abs().median() < 1e-4
    assert exact.std() > 1, "a flat density: the test shows little"


def test_a_smaller_tolerance_makes_smaller_errors() -> None:
    flow, context = flow_of(hidden=(64, 64)).double(), torch.randn(8, dtype=torch.float64)
    x = 3 * torch.randn(4000, 2, dtype=torch.float64)
    exact = flow.log_prob(x, context)
    errors = [(tabulated_log_prob_2d(flow, x, context, tolerance=t) - exact).abs().max() for t in (1e-3, 1e-5, 1e-6)]
    assert errors[0] > 3 * errors[1] > 3 * errors[2]


def test_points_on_a_line_and_flows_without_context() -> None:
    flow = flow_of(context_features=0)
    for x in (torch.zeros(3, 2), torch.tensor([[0.5, -1.0]]), torch.full((4, 2), 1e3)):
        torch.testing.assert_close(tabulated_log_prob_2d(flow, x), flow.log_prob(x).detach(), rtol=1e-4, atol=1e-2)


def test_it_leaves_its_arguments_alone_and_records_nothing() -> None:
    flow, context, x = flow_of(), torch.randn(8, requires_grad=True), torch.randn(100, 2, requires_grad=True)
    before = x.detach().clone()
    assert not tabulated_log_prob_2d(flow, x, context).requires_grad
    assert torch.equal(x, before)


def test_what_it_cannot_take_is_refused() -> None:
    flow, context = flow_of(), torch.zeros(8)
    good = torch.randn(5, 2)
    for bad, given, message in (
        (CouplingFlow(3, 8), (torch.randn(5, 3), context), "two features.*features=3"),
        (flow_of(inverted=True), (good, context), "inverted=True"),
        (flow_of(bounds="tanh"), (good, context), "bounds='tanh'"),
        (flow, (torch.randn(5, 3), context), r"x: expected a shape \(\.\.\., 2\).*\(5, 3\)"),
        (flow, (good[:0], context), "not empty"),
        (flow, (good, context.unsqueeze(0)), r"context: expected \(8,\).*\(1, 8\)"),
        (flow, (good, None), "context: .*None"),
        (flow, (good / 0, context), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            tabulated_log_prob_2d(bad, *given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance: .*-1"):
        tabulated_log_prob_2d(flow, good, context, tolerance=-1)
