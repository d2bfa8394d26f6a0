"""The coupling flow against the naive oracle, its Jacobian and autograd, in float64."""

import math

import pytest
import torch
from support import flows, naive

import nfkern

every_flow = pytest.mark.parametrize("name", list(flows.OPTIONS))


@every_flow
def test_both_directions_equal_the_oracle(name):
    flow = flows.make_flow(name).eval()
    x, context = flows.make_inputs(flow, 9)
    z, log_det = flow.to_latent(x, context)
    expected, expected_log_det = naive.to_latent(flow, x, context)
    torch.testing.assert_close(z, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-11, atol=1e-11)
    back, back_log_det = flow.to_data(z, context)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back_log_det, -log_det, rtol=1e-9, atol=1e-9)
    noise = torch.randn_like(x)
    for actual, wanted in zip(flow.to_data(noise, context), naive.to_data(flow, noise, context), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flow(x, context), naive.log_prob(flow, x, context), rtol=1e-11, atol=1e-11)


@every_flow
def test_log_det_is_that_of_the_jacobian(name):
    flow = flows.make_flow(name).eval()
    x, context = flows.make_inputs(flow)
    for direction, point in ((flow.to_latent, x), (flow.to_data, torch.randn_like(x))):
        jacobian = torch.autograd.functional.jacobian(lambda v, run=direction: run(v, context)[0], point)
        expected = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(direction(point, context)[1], expected, rtol=1e-9, atol=1e-9)


@every_flow
def test_score_equals_autograd(name):
    flow = flows.make_flow(name).eval()
    x, context = flows.make_inputs(flow, 7)
    point = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(naive.log_prob(flow, point, context).sum(), point)
    with torch.inference_mode():
        torch.testing.assert_close(flow.score(x, context), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, options in flows.OPTIONS.items() if "bounds" not in options])
def test_denoised_samples_are_samples_moved_by_the_score(name):
    flow = flows.make_flow(name).eval()
    context = flows.make_inputs(flow, 5)[1]
    noise = 0.5 * torch.randn(2, 5, flow.features, dtype=torch.float64)
    noise = noise if context is not None else noise[:, 0]
    x = flow.sample((2,), context, noise=noise)
    expected = x + 0.1**2 * flow.score(x, context)
    actual = flow.sample_denoised(0.1, (2,), context, noise=noise)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def test_denoising_finds_the_clean_data_of_a_gaussian():
    # A flow whose density is N(mean, sigma^2 I), built by hand: mixing off, scales zero, shifts constant.
    flow = flows.make_flow("unmixed", context_features=0, blocks=1)
    with torch.no_grad():
        flow.output_weight.zero_()
        flow.output_bias[0, 0], flow.output_bias[0, 1] = math.log(0.1), 0.3
    x = flow.sample_denoised(0.1, (50,))[:, 3:]
    torch.testing.assert_close(x, torch.full_like(x, 0.3), rtol=1e-9, atol=1e-9)


def test_denoising_in_a_box_is_refused():
    with pytest.raises(ValueError, match="bounds: expected None for denoising, got 'tanh'"):
        flows.make_flow("tanh_bounds").sample_denoised(0.1, (), torch.zeros(5, dtype=torch.float64))


@every_flow
def test_gradients_of_the_density_equal_the_oracles(name):
    flow = flows.make_flow(name).eval()
    x, context = flows.make_inputs(flow, 6)
    inputs = [t.requires_grad_() for t in (x, context) if t is not None] + list(flow.parameters())
    weights = torch.randn(6, dtype=torch.float64)
    actual = torch.autograd.grad((flow(x, context) * weights).sum(), inputs)
    expected = torch.autograd.grad((naive.log_prob(flow, x, context) * weights).sum(), inputs)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@every_flow
def test_gradients_through_sampling_equal_the_oracles(name):
    flow = flows.make_flow(name).eval()
    _, context = flows.make_inputs(flow, 6)
    noise = 0.5 * torch.randn(*((6,) if context is not None else ()), flow.features, dtype=torch.float64)
    inputs = ([] if context is None else [context.requires_grad_()]) + list(flow.parameters())
    x, log_prob = flow.rsample_and_log_prob((), context, noise=noise)
    actual = torch.autograd.grad(x.square().sum() + log_prob.sum(), inputs)
    rows = noise.reshape(-1, flow.features)
    data, log_det = naive.to_data(flow, rows, context)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(rows).sum(1)
    expected = torch.autograd.grad(data.square().sum() + (base - log_det).sum(), inputs)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@every_flow
def test_log_prob_of_samples_agrees_in_float32(name):
    flow = flows.make_flow(name, torch.float32).eval()
    _, context = flows.make_inputs(flow, 50)
    with torch.no_grad():
        x, log_prob = flow.rsample_and_log_prob(() if context is not None else (50,), context)
        again = flow.log_prob(x, context)
        exact = flow.double()
        truth = exact.log_prob(x.double(), None if context is None else context.double())
    if flow.bounds:
        # Rounding x near a bound moves atanh(x) by eps / (1 - x^2): the density of the rounded sample differs.
        inside = flows.distance_to_bounds(flow, x) > 1e-3
        again, log_prob, truth = again[inside], log_prob[inside], truth[inside]
        assert inside.sum() > 10
    torch.testing.assert_close(again, log_prob, rtol=2e-4 if flow.bounds else 1e-5, atol=1e-4 if flow.bounds else 2e-5)
    torch.testing.assert_close(again.double(), truth, rtol=1e-5, atol=2e-5)


def test_float32_error_is_within_the_derived_tolerance():
    flow = flows.make_flow("paper", torch.float32, features=8, context_features=64, blocks=6, hidden=(64, 64)).eval()
    x, context = flows.make_inputs(flow, 128)
    with torch.no_grad():
        actual = flow(x, context)
        exact = flow.double()
        truth = naive.log_prob(exact, x.double(), context.double())
        plain = naive.log_prob(flow.float(), x, context).double()
    scale = truth.abs().max()
    bound = 2 * (plain - truth).abs().max() + 4 * torch.finfo(torch.float32).eps * scale
    assert (actual.double() - truth).abs().max() <= bound


def test_autocast_keeps_the_log_det_in_float32_and_the_error_bounded():
    flow = flows.make_flow("paper", torch.float32, features=8, context_features=64, blocks=6, hidden=(64, 64)).eval()
    x, context = flows.make_inputs(flow, 256)
    exact = flow(x, context)
    projected = flow._project(context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = flow.to_latent(x, context)
        rough = flow(x, context.bfloat16())
        hidden_only = flow(x, projected)
    assert z.dtype == log_det.dtype == rough.dtype == torch.float32
    # The hidden products alone must lose precision too, not just the context's projection.
    assert (hidden_only - exact).abs().max() > 1e-4
    error = (rough - exact).abs()
    # The project's bound for bf16 is 2e-1 on the worst row of well-scaled weights; the typical row is ten times better.
    assert error.median() < 2e-2
    assert error.max() < 2e-1 * max(1.0, exact.abs().max().item() / 10)
    rough.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in flow.parameters())


def test_autocast_leaves_float64_alone():
    flow = flows.make_flow().eval()
    x, context = flows.make_inputs(flow, 16)
    exact = flow(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(flow(x, context), exact, rtol=1e-12, atol=1e-12)


def test_initial_flow_only_mixes():
    flow = nfkern.CouplingFlow(5, 3, blocks=4, hidden=(8, 8))
    x, context = torch.randn(10, 5), torch.randn(10, 3)
    z, log_det = flow.to_latent(x, context)
    # Orthogonal mixing keeps lengths and volume; the couplings start as the identity.
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(log_det, torch.zeros(10), rtol=0, atol=1e-5)


def test_the_density_integrates_to_one():
    flow = flows.make_flow("two_features", blocks=2).eval()
    context = torch.randn(flow.context_features, dtype=torch.float64)
    axis = torch.linspace(-9, 9, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mass = flow.log_prob(grid, context).exp().sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(mass, torch.tensor(1.0, dtype=torch.float64), rtol=1e-3, atol=0)


def test_dropped_contexts_give_the_marginal():
    flow = flows.make_flow("context_dropout")
    x, context = flows.make_inputs(flow, 400)
    marginal, conditional = flow.eval().log_prob(x), flow.log_prob(x, context)
    torch.testing.assert_close(marginal, naive.log_prob(flow, x, torch.zeros_like(context)))
    torch.manual_seed(0)
    trained = flow.train().log_prob(x, context)
    dropped = (trained - marginal).abs() < 1e-12
    assert torch.equal(dropped, (trained - conditional).abs() > 1e-12)
    # Binomial(400, 0.3): four standard deviations are 37.
    assert abs(dropped.sum().item() - 120) < 37


def test_temperature_generator_noise_and_determinism():
    flow = flows.make_flow().eval()
    context = flows.make_inputs(flow, 4)[1]
    first = flow.sample((3,), context, generator=torch.Generator().manual_seed(5))
    second = flow.sample((3,), context, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, second)
    halved = flow.sample((3,), context, temperature=0.5, generator=torch.Generator().manual_seed(5))
    z = flow.to_latent(first, context)[0]
    torch.testing.assert_close(halved, flow.to_data(0.5 * z, context)[0], rtol=1e-8, atol=1e-8)
    still = flow.sample((3,), context, temperature=0.0)
    assert torch.equal(still, flow.sample((3,), context, deterministic=True))
    assert torch.equal(still[0], still[1])
    noise = torch.randn(3, 4, flow.features, dtype=torch.float64)
    torch.testing.assert_close(flow.sample((3,), context, noise=noise)[1], flow.to_data(noise[1], context)[0])
