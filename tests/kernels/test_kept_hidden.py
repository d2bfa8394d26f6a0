"""Hidden activations that a map keeps for its derivative: they change nothing but the work."""

import pytest
import torch
from support.coupling_problems import DIRECTIONS, mapping, problem, random_gradients, single

from nfkern.kernels import CouplingParameters, coupling
from nfkern.kernels.coupling import op

IMPLEMENTATIONS = ("", "_reference")


def op_named(name):
    return getattr(torch.ops.nfkern, name).default


@pytest.mark.parametrize("backward", IMPLEMENTATIONS)
@pytest.mark.parametrize("forward", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("rows", "groups"), [(37, 37), (37, 1), (300, 60)])
def test_whoever_keeps_them_whoever_takes_them(direction, forward, backward, rows, groups):
    x, term, matrices, parameters, settings = problem(rows=rows, groups=groups)
    mixing, mixing_log_det = matrices[direction == "to_data"]
    options = (*parameters, settings["norm_eps"], settings["scale_bound"], None)
    map_op = op_named(f"coupling_{direction}{forward}")
    result, log_det, inputs, hidden = map_op(x, term, mixing, mixing_log_det, *options, True)
    assert map_op(x, term, mixing, mixing_log_det, *options, False)[3].shape == (0,)
    backward_op = op_named(f"coupling_{direction}_backward{backward}")
    given = (result, log_det, inputs, term, mixing, *options, True)
    for computed, kept in zip(backward_op(*given), backward_op(*given, hidden), strict=True):
        torch.testing.assert_close(kept, computed)
    # They are taken, not computed again.
    assert not torch.allclose(backward_op(*given)[0], backward_op(*given, 2 * hidden + 1)[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_panel_that_is_copied_equals_one_that_lies_in_place(direction, instruction_set):
    """Panels with rows missing are copied to and from where they are kept, whole ones are not."""
    x, term, matrices, parameters, settings = problem(rows=96, groups=96, hidden=(20, 18))
    weights = single(random_gradients(x))
    x, term, mixing, parameters = single((x, term, matrices[direction == "to_data"], parameters))

    def results(rows):
        leaves = [t[:rows].clone().requires_grad_() for t in (x, term)]
        mapped = mapping(direction, settings)(*leaves, *mixing, parameters)
        return *mapped, *torch.autograd.grad(mapped, leaves, [weight[:rows] for weight in weights])

    for whole, cut in zip(results(96), results(79), strict=True):
        assert torch.equal(cut, whole[:79])


def test_they_are_kept_for_gradients_alone(monkeypatch):
    kept = []
    monkeypatch.setattr(op._to_latent, "dispatched", lambda *arguments: (kept.append(arguments[-1]), *[None] * 3))
    x, term, matrices, parameters, _ = problem()
    trained = CouplingParameters(*(parameter.clone().requires_grad_() for parameter in parameters))
    coupling.to_latent(x, term, *matrices[False], trained)
    with torch.no_grad():
        coupling.to_latent(x, term, *matrices[False], trained)
    coupling.to_latent(x, term, *matrices[False], parameters)
    monkeypatch.setattr(op, "HIDDEN_BYTES", 0)
    coupling.to_latent(x, term, *matrices[False], trained)
    assert kept == [True, False, False, False]
