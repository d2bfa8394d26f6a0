"""The causal flow's ops: what they refuse, and gradients of one result alone."""

import functools

import pytest
import torch
from support import flows

from nfkern.kernels import CausalParameters, causal
from nfkern.kernels.causal import op
from nfkern.kernels.causal.parameters import HIDDEN


def arguments(**options):
    flow = flows.make_causal(**options)
    x, term = torch.randn(4, 5, 3).double(), torch.randn(2, 3, 16).double()
    parameters = CausalParameters(*(p.detach() for p in flow._parameters_tuple))
    return {"x": x, "context_term": term, "parameters": parameters, "heads": 2}


@pytest.mark.parametrize("used", [0, 1])
def test_a_result_that_is_not_used_has_a_gradient_of_zeros(used):
    given = arguments()
    leaves = [t.clone().requires_grad_() for t in (given["x"], given["context_term"], *given["parameters"])]
    results = causal.to_latent(*leaves[:2], CausalParameters(*leaves[2:]), heads=2)
    gradients = [torch.zeros_like(result) for result in results]
    gradients[used] = torch.randn_like(gradients[used])
    expected = torch.autograd.grad(results, leaves, gradients, retain_graph=True, materialize_grads=True)
    actual = torch.autograd.grad(results[used], leaves, gradients[used], materialize_grads=True)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("forward", ["", "_reference"])
def test_hidden_activations_that_were_kept_are_not_computed_again(forward, rows, prefix):
    given = arguments()
    x, term = torch.randn(rows, 4, 3).double(), given["context_term"]
    options = (*given["parameters"], 2, prefix, 1e-5, 0.5, None)
    to_latent = getattr(torch.ops.nfkern, f"causal_flow_to_latent{forward}").default
    result, log_det, inputs, kept = to_latent(x, term, *options, True)
    assert to_latent(x, term, *options)[3].shape == (0,)
    backward = torch.ops.nfkern.causal_flow_to_latent_backward.default
    expected = backward(result, log_det, inputs, term, *options, True)
    torch.testing.assert_close(backward(result, log_det, inputs, term, *options, True, kept), expected)
    assert not torch.allclose(backward(result, log_det, inputs, term, *options, True, 2 * kept)[0], expected[0])


def test_they_are_kept_for_gradients_alone(monkeypatch):
    kept, given = [], arguments()
    monkeypatch.setattr(op._to_latent, "dispatched", lambda *arguments: (kept.append(arguments[-1]), *[None] * 3))
    trained = given | {"context_term": given["context_term"].clone().requires_grad_()}
    causal.to_latent(**trained)
    with torch.no_grad():
        causal.to_latent(**trained)
    causal.to_latent(**given)
    monkeypatch.setattr(op, "KEPT_BYTES", 1000)
    causal.to_latent(**trained)
    assert kept == [True, False, False, False]


def changed(name, value):
    return lambda given: given | {"parameters": given["parameters"]._replace(**{name: value(given["parameters"])})}


def in_16_bits(parameters):
    return parameters._replace(**{name: getattr(parameters, name).bfloat16() for name in HIDDEN})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda g: g | {"x": g["x"][0]}, ValueError, r"x: expected shape \(rows, 2 to 5 tokens, 3\), got \(5, 3\)"),
        (lambda g: g | {"heads": 3}, ValueError, "heads: expected a divisor of the width 16, got 3"),
        (
            lambda g: g | {"context_term": g["context_term"][:, :2]},
            ValueError,
            r"context_term: expected shape \(groups, 3, 16\), got \(2, 2, 16\)",
        ),
        (
            lambda g: g | {"context_term": g["context_term"].repeat(2, 1, 1)[:3]},
            ValueError,
            "context_term: expected groups dividing 4 rows, got 3",
        ),
        (lambda g: g | {"context_term": g["context_term"].float()}, TypeError, "context_term: expected torch.float64"),
        (lambda g: g | {"scale_bound": 0.0}, ValueError, "scale_bound: expected None or a number > 0, got 0.0"),
        (
            changed("down_weight", lambda p: p.down_weight.mT),
            ValueError,
            r"parameters.down_weight: expected shape \(3, 2, 16, 64\), got \(3, 2, 64, 16\)",
        ),
        (
            changed("up_weight", lambda p: p.up_weight.bfloat16()),
            TypeError,
            "parameters.up_weight: expected torch.float64 on cpu as x, got torch.bfloat16 on cpu",
        ),
        (
            lambda g: g | {"parameters": in_16_bits(g["parameters"])},
            TypeError,
            r"parameters.qkv_weight: expected torch.float64 or the compute_dtype \(None\), got torch.bfloat16",
        ),
    ],
)
def test_bad_input_names_the_argument(change, error, message):
    with pytest.raises(error, match=message):
        causal.to_latent(**change(arguments()))


@pytest.mark.parametrize("function", [causal.to_latent, causal.to_data, causal.to_data_with_score])
def test_weights_in_16_bits_want_products_in_16_bits(function):
    x, term, parameters, heads = arguments().values()
    single = CausalParameters(*(parameter.float() for parameter in parameters))
    call = functools.partial(function, x.float(), term.float(), heads=heads)
    call(in_16_bits(single), compute_dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="qkv_weight: expected torch.float32 or the compute_dtype"):
        call(in_16_bits(single))
    mixed = single._replace(up_weight=single.up_weight.bfloat16())
    with pytest.raises(TypeError, match="parameters.up_weight: expected torch.float32"):
        call(mixed, compute_dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"guidance": 1.0},
            ValueError,
            "unconditional_term: expected the term of no context for guidance=1.0, got None",
        ),
        (
            {"guidance": 1.0, "unconditional_term": torch.zeros(2, 3, 16).double()},
            ValueError,
            "unconditional_term: expected one group, got 2",
        ),
        (
            {"guidance": 1.0, "unconditional_term": torch.zeros(1, 3, 16)},
            TypeError,
            "unconditional_term: expected torch.float64",
        ),
        ({"method": "fast"}, ValueError, "method: expected one of auto, cached, jacobi, got 'fast'"),
        ({"tolerance": 1e-6}, ValueError, "tolerance: expected None for method='auto', got 1e-06"),
    ],
)
def test_bad_options_of_sampling_are_named(options, error, message):
    given = arguments()
    z = given.pop("x")
    with pytest.raises(error, match=message):
        causal.to_data(z, **given, **options)


def test_an_op_gives_nothing_back_of_what_it_got():
    given = arguments()
    flat = (given["context_term"], *given["parameters"], 2)
    one = given["x"][:, :1].contiguous()
    for tolerance in (None, 1e-6):
        x, _ = torch.ops.nfkern.causal_flow_to_data(one, *flat, True, 1e-5, None, None, None, 0.0, False, tolerance)
        assert x.data_ptr() != one.data_ptr()
        # Without a prefix nothing would move it.
        with pytest.raises(ValueError, match=r"z: expected shape \(rows, 2 to 5 tokens, 3\), got \(4, 1, 3\)"):
            torch.ops.nfkern.causal_flow_to_data(one, *flat, False, 1e-5, None, None, None, 0.0, False, tolerance)
