"""A folded set of parameters computes the same flow, and says clearly what it cannot do."""

import pytest
import torch
from support import flows

from nfkern.kernels import CouplingParameters, compose, coupling

DIRECTIONS = ["to_latent", "to_data"]


def problem(dtype=torch.float64, **options):
    """(x, term), matrices by direction, the parameters, and the ops' settings."""
    flow = flows.make_flow(dtype=dtype, **options)
    x = torch.randn(6, flow.features, dtype=dtype)
    term = torch.randn(3, flow.blocks, 2, flow.hidden[0], dtype=dtype)
    lu = flow.mixing_lu.detach()
    matrices = {name: compose(lu, flow.permutation, name == "to_data") for name in DIRECTIONS}
    parameters = CouplingParameters(*(p.detach() for p in flow._parameters_tuple))
    return (x, term), matrices, parameters, {"norm_eps": flow.norm_eps, "scale_bound": flow.scale_bound}


def results(inputs, matrices, parameters, settings):
    """What every public function gives."""
    found = []
    for direction in DIRECTIONS:
        found += getattr(coupling, direction)(*inputs, *matrices[direction], parameters, **settings)
    found += coupling.to_data_with_score(
        *inputs, matrices["to_latent"][0], *matrices["to_data"], parameters, **settings
    )
    for direction in DIRECTIONS:
        inverted = direction == "to_data"
        found.append(coupling.score(*inputs, *matrices[direction], parameters, inverted=inverted, **settings))
    return found


@pytest.mark.parametrize(
    "options", [{}, {"hidden": (9, 5)}, {"hidden": (1, 1)}, {"features": 2}, {"scale_bound": 0.7}, {"norm_eps": 1e-2}]
)
def test_a_folded_flow_is_the_same_flow(options):
    inputs, matrices, parameters, settings = problem(**options)
    folded = coupling.fold(parameters)
    exact = results(inputs, matrices, parameters, settings)
    for expected, actual in zip(exact, results(inputs, matrices, folded, settings), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_sum_to_zero_so_that_the_mean_may_be_skipped(direction, monkeypatch):
    from nfkern.kernels.coupling import conditioner

    def without_mean(preactivation, eps):
        activation = torch.nn.functional.leaky_relu(preactivation, conditioner.NEGATIVE_SLOPE)
        rstd = (activation.var(-1, correction=0, keepdim=True) + eps).rsqrt()
        return conditioner.Normalized(activation, activation * rstd, torch.zeros_like(rstd), rstd)

    inputs, matrices, parameters, settings = problem()
    folded = coupling.fold(parameters)
    for weight in (folded.hidden_weight, folded.output_weight):
        assert weight.sum(-1).abs().max() < 1e-14 * weight.abs().sum(-1).max()
    expected = getattr(coupling, direction)(*inputs, *matrices[direction], parameters, **settings)
    monkeypatch.setattr(conditioner, "_normalize", without_mean)
    actual = getattr(coupling, direction)(*inputs, *matrices[direction], folded, **settings)
    for wanted, got in zip(expected, actual, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_leaves_row_sums_of_its_own_size(dtype):
    folded = coupling.fold(problem(hidden=(64, 64))[2], dtype)
    assert folded.hidden_weight.dtype == dtype
    assert {t.dtype for t in folded if t is not None and t is not folded.hidden_weight} == {torch.float64}
    weight = folded.hidden_weight.double()
    # Each entry is off by half a unit at most, and errors do not conspire: their sum grows as the root of their number.
    bound = 3 * torch.finfo(dtype).eps / 2 * weight.abs().amax(-1) * 64**0.5
    assert (weight.sum(-1).abs() <= bound).all()


def test_single_precision_is_folded_in_double():
    parameters = problem(torch.float32)[2]
    exact = coupling.fold(CouplingParameters(*(p.double() for p in parameters)))
    for name, value, wanted in zip(CouplingParameters._fields, coupling.fold(parameters), exact, strict=True):
        assert (value is None) == name.startswith("norm")
        if value is not None:
            assert torch.equal(value, wanted.float())


def test_folding_copies():
    parameters = problem()[2]
    folded = coupling.fold(parameters)
    kept = [t.clone() for t in folded if t is not None]
    for tensor in parameters:
        tensor.zero_()
    assert all(torch.equal(now, then) for now, then in zip((t for t in folded if t is not None), kept, strict=True))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_of_inputs_pass_through_a_folded_set(direction):
    (x, term), matrices, parameters, settings = problem()
    mixing, log_det = matrices[direction]
    folded, inputs = coupling.fold(parameters), [t.clone().requires_grad_() for t in (x, term, mixing)]

    def run(parameters):
        z, change = getattr(coupling, direction)(*inputs, log_det, parameters, **settings)
        return z.square().sum() + change.sum()

    expected = torch.autograd.grad(run(parameters), inputs)
    for wanted, got in zip(expected, torch.autograd.grad(run(folded), inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
    (only_x,) = torch.autograd.grad(run(folded), inputs[0])
    torch.testing.assert_close(only_x, expected[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["input_weight", "hidden_weight", "output_bias"])
def test_folded_weights_have_no_gradients(name):
    inputs, matrices, parameters, settings = problem()
    folded = coupling.fold(parameters)
    folded = folded._replace(**{name: getattr(folded, name).requires_grad_()})
    z, _ = coupling.to_latent(*inputs, *matrices["to_latent"], folded, **settings)
    with pytest.raises(RuntimeError, match="weights of a folded coupling flow have no gradients; train it unfolded"):
        z.sum().backward()


@pytest.mark.parametrize("name", ["norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias"])
def test_half_folded_sets_are_refused(name):
    inputs, matrices, parameters, settings = problem()
    with pytest.raises(ValueError, match="parameters: expected all four norm tensors or None for each, got only"):
        coupling.to_latent(*inputs, *matrices["to_latent"], parameters._replace(**{name: None}), **settings)


def test_folding_twice_is_refused():
    folded = coupling.fold(problem()[2])
    with pytest.raises(ValueError, match="parameters: expected LayerNorm's weights and biases, got a set .* already"):
        coupling.fold(folded)


def test_dtypes_of_the_hidden_weight():
    inputs, matrices, parameters, settings = problem(torch.float32)
    folded = coupling.fold(parameters, torch.bfloat16)
    coupling.to_latent(*inputs, *matrices["to_latent"], folded, **settings, compute_dtype=torch.bfloat16)
    message = r"parameters.hidden_weight: expected torch.float32 or the compute_dtype \(None\), got torch.bfloat16"
    with pytest.raises(TypeError, match=message):
        coupling.to_latent(*inputs, *matrices["to_latent"], folded, **settings)
    lowered = parameters._replace(hidden_weight=parameters.hidden_weight.bfloat16())
    with pytest.raises(TypeError, match=r"parameters.hidden_weight: expected torch.float32 as x, got torch.bfloat16"):
        coupling.to_latent(*inputs, *matrices["to_latent"], lowered, **settings, compute_dtype=torch.bfloat16)
