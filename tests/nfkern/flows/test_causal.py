"""The causal flow against the naive oracle, its Jacobian and autograd, in float64."""

import pytest
import torch
from support import flows, naive

every_flow = pytest.mark.parametrize("name", list(flows.CAUSAL_OPTIONS))
METHODS = ("cached", "jacobi", "auto")


def inputs_of(flow, rows=4):
    """Events and contexts of so many rows; an unconditional flow gets events alone."""
    return flows.make_inputs(flow, rows)


def noise_for(flow, rows=4, tokens=None):
    shape = (rows, tokens or flow.tokens, flow.features)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@every_flow
def test_both_directions_equal_the_oracle(name):
    flow = flows.make_causal(name).eval()
    x, context = inputs_of(flow)
    z, log_det = flow.to_latent(x, context)
    expected, expected_log_det = naive.to_latent(flow, x, context)
    torch.testing.assert_close(z, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(flow(x, context), naive.log_prob(flow, x, context), rtol=1e-11, atol=1e-11)
    noise = noise_for(flow)
    expected, expected_log_det = naive.to_data(flow, noise, context)
    for method in METHODS:
        data, log_det = flow.to_data(noise, context, method=method)
        torch.testing.assert_close(data, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_det, expected_log_det, rtol=1e-9, atol=1e-9)


@every_flow
def test_log_det_is_that_of_the_jacobian(name):
    flow = flows.make_causal(name).eval()
    x, context = inputs_of(flow, 1)
    size = flow.tokens * flow.features
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, context)[0], x).reshape(size, size)
    torch.testing.assert_close(flow.to_latent(x, context)[1][0], torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("mode", ["add", "prefix"])
def test_one_block_is_block_lower_triangular(mode):
    flow = flows.make_causal(blocks=1, context_mode=mode)
    x, context = inputs_of(flow, 1)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, context)[0], x)
    by_token = jacobian.reshape(flow.tokens, flow.features, flow.tokens, flow.features).transpose(1, 2)
    above = torch.ones(flow.tokens, flow.tokens).triu(1).bool()
    assert (by_token[above] == 0).all()
    assert (by_token[above.T] != 0).any(-1).any(-1).all()
    # Within a token, features move on their own.
    within = by_token[range(flow.tokens), range(flow.tokens)]
    assert torch.equal(within, torch.diag_embed(within.diagonal(dim1=1, dim2=2)))
    assert torch.equal(within[0], torch.eye(flow.features).double()) == (mode == "add")


@every_flow
def test_score_equals_autograd(name):
    flow = flows.make_causal(name).eval()
    x, context = inputs_of(flow)
    point = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(naive.log_prob(flow, point, context).sum(), point)
    with torch.inference_mode():
        torch.testing.assert_close(flow.score(x, context), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, options in flows.CAUSAL_OPTIONS.items() if "bounds" not in options])
def test_denoised_samples_are_samples_moved_by_the_score(name):
    flow = flows.make_causal(name).eval()
    context, noise = inputs_of(flow)[1], noise_for(flow)
    shape = () if context is not None else (4,)
    x = flow.sample(shape, context, noise=noise)
    expected = x + 0.1**2 * flow.score(x, context)
    torch.testing.assert_close(flow.sample_denoised(0.1, shape, context, noise=noise), expected, rtol=1e-8, atol=1e-8)


@every_flow
def test_gradients_of_the_density_equal_the_oracles(name):
    flow = flows.make_causal(name).eval()
    x, context = inputs_of(flow)
    inputs = [t.requires_grad_() for t in (x, context) if t is not None] + list(flow.parameters())
    weights = torch.randn(4, dtype=torch.float64)
    actual = torch.autograd.grad((flow(x, context) * weights).sum(), inputs, materialize_grads=True)
    loss = (naive.log_prob(flow, x, context) * weights).sum()
    expected = torch.autograd.grad(loss, inputs, materialize_grads=True)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@every_flow
def test_log_prob_of_samples_agrees_in_float32(name):
    flow = flows.make_causal(name, torch.float32).eval()
    context = inputs_of(flow, 50)[1]
    with torch.no_grad():
        x, log_prob = flow.rsample_and_log_prob(() if context is not None else (50,), context)
        again = flow.log_prob(x, context)
    if flow.bounds:
        # Rounding x near a bound moves atanh(x) by eps / (1 - x^2): the density of the rounded sample differs.
        inside = flows.distance_to_bounds(flow, x) > 1e-3
        again, log_prob = again[inside], log_prob[inside]
        assert inside.sum() > 10
    assert (again - log_prob).abs().max() <= 1e-5 * log_prob.abs().max()


@pytest.mark.parametrize("mode", ["add", "prefix"])
def test_shorter_sequences(mode):
    flow = flows.make_causal(context_mode=mode, blocks=4).eval()
    context = inputs_of(flow)[1]
    x = flow.sample((3,), context, tokens=3)
    assert x.shape == (3, 4, 3, flow.features)
    noise = noise_for(flow, tokens=3)
    expected, _ = naive.to_data(flow, noise, context)
    torch.testing.assert_close(flow.sample((), context, noise=noise), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.log_prob(expected, context), naive.log_prob(flow, expected, context))


def test_a_longer_sequence_does_not_change_the_first_tokens_of_one_block():
    flow = flows.make_causal(blocks=1)
    noise, context = noise_for(flow), inputs_of(flow)[1]
    whole, cut = flow.sample((), context, noise=noise), flow.sample((), context, noise=noise[:, :3])
    torch.testing.assert_close(cut, whole[:, :3])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["add", "prefix"])
def test_guidance_leans_away_from_no_context(mode, method):
    """Published: pairs become c + w (c - u), with w growing linearly over the positions if annealed."""
    flow = flows.make_causal("context_dropout", context_mode=mode, blocks=1).eval()
    noise, context = noise_for(flow), inputs_of(flow)[1]
    for annealed in (False, True):
        seen = torch.zeros_like(noise)
        for t in range(flow.tokens):
            given, without = (naive.first_pairs(flow, seen, c) for c in (context, torch.zeros_like(context)))
            position, last = (t + 1, flow.tokens) if mode == "prefix" else (t, flow.tokens - 1)
            weight = 1.5 * (position / last if annealed else 1)
            log_scale, shift = (c + weight * (c - u) for c, u in zip(given, without, strict=True))
            moved = (noise * torch.exp(log_scale) + shift)[:, t]
            seen = torch.cat([seen[:, :t], moved[:, None], seen[:, t + 1 :]], 1)
        actual = flow.sample((), context, noise=noise, guidance=1.5, annealed=annealed, method=method)
        torch.testing.assert_close(actual, seen, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(seen, flow.sample((), context, noise=noise))


def test_jacobi_survives_guesses_that_overflow():
    """A guess may be infinite, and 0 times infinity in an attention is NaN for every token."""
    flow = flows.make_causal(blocks=1)
    with torch.no_grad():
        flow.output_weight.mul_(3e3)
    noise, context = 1e2 * noise_for(flow), inputs_of(flow)[1]
    cached, _ = flow.to_data(noise, context, method="cached")
    iterated, _ = flow.to_data(noise, context, method="jacobi")
    torch.testing.assert_close(iterated, cached, equal_nan=True)
