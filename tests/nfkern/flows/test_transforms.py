"""Every call under every transform of `torch.func` and forward-mode AD: plain autograd's numbers, or an error."""

import pytest
import torch
from support import flows
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from nfkern.flows.tabulated import tabulated_log_prob_2d

# PyTorch loads what it needs for tangents by torch.jit.script, which it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

every_flow = pytest.mark.parametrize("name", ["paper", "inverted_tanh", "causal_published", "causal_prefix"])

# Calls of tensors (events, context) that plain autograd differentiates.
CALLS = {
    "log_prob": lambda flow, x, c: flow.log_prob(x, c),
    "to_latent": lambda flow, x, c: torch.cat([each.flatten(1) for each in _rows(*flow.to_latent(x, c))], 1),
    "conditioned": lambda flow, x, c: flow.condition(c).log_prob(x),
}
SAMPLING = {
    "to_data": lambda flow, x, c: torch.cat([each.flatten(1) for each in _rows(*flow.to_data(x, c))], 1),
    "rsample": lambda flow, x, c: flow.rsample((), c, noise=x),
    "rsample_and_log_prob": lambda flow, x, c: flow.rsample_and_log_prob((), c, noise=x)[1],
}
CONSTANT = {
    "score": lambda flow, x, c: flow.score(x, c),
    "sample": lambda flow, x, c: flow.sample((), c, noise=x),
    "sample_denoised": lambda flow, x, c: flow.sample_denoised(0.1, (), c, noise=x),
}


def _rows(events, log_det):
    return events, log_det.unsqueeze(-1)


def exact(f, tensors):
    """Jacobians of f by plain autograd, one row after the other, and their product with the tensors themselves."""
    found = jacobian(f, tensors)
    return found, sum((j.flatten(-t.ndim) @ t.flatten() for j, t in zip(found, tensors, strict=True)))


def _dual(f, tensors):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(*(forward_ad.make_dual(t, t) for t in tensors))).tangent


def _pulled_back(f, tensors):
    value, pull = vjp(f, *tensors)
    return sum((g * t).sum() for g, t in zip(pull(torch.ones_like(value)), tensors, strict=True))


# name -> a function of (f, tensors), and what of `exact` it gives.
TRANSFORMS = {
    "grad": (lambda f, t: grad(lambda *t: f(*t).sum(), (0, 1))(*t), lambda j, p: _summed(j)),
    "vjp": (_pulled_back, lambda j, p: p.sum()),
    "jacrev": (lambda f, t: jacrev(f, (0, 1))(*t), lambda j, p: j),
    "jacfwd": (lambda f, t: jacfwd(f, (0, 1))(*t), lambda j, p: j),
    "jvp": (lambda f, t: jvp(f, t, t)[1], lambda j, p: p),
    "dual numbers": (_dual, lambda j, p: p),
    "grad of each row": (
        lambda f, t: vmap(grad(lambda *row: f(*(r[None] for r in row)).sum(), (0, 1)))(*t),
        lambda j, p: _summed(j),
    ),
    "functionalize": (lambda f, t: grad(functionalize(lambda *t: f(*t).sum()), (0, 1))(*t), lambda j, p: _summed(j)),
    "vectorize": (lambda f, t: jacobian(f, t, vectorize=True), lambda j, p: j),
    "vectorize forwards": (
        lambda f, t: jacobian(f, t, vectorize=True, strategy="forward-mode"),
        lambda j, p: j,
    ),
}
every_transform = pytest.mark.parametrize("transform", list(TRANSFORMS))


def _summed(jacobians):
    """Gradients of the sum of the results: rows of (x, context) are the last dimensions."""
    return tuple(j.flatten(0, j.ndim - rank - 1).sum(0) for j, rank in zip(jacobians, _summed.ranks, strict=True))


def problem(name, rows=2):
    flow = flows.make(name).eval()
    tensors = flows.make_inputs(flow, rows)
    _summed.ranks = tuple(t.ndim for t in tensors)
    return flow, tensors


def compare(f, tensors, transform):
    run, expected = TRANSFORMS[transform]
    torch.testing.assert_close(run(f, tensors), expected(*exact(f, tensors)), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@every_transform
@pytest.mark.parametrize("call", list(CALLS))
@every_flow
def test_densities(name, call, transform):
    flow, tensors = problem(name)
    compare(lambda x, c: CALLS[call](flow, x, c), tensors, transform)


@pytest.mark.slow
@every_transform
@pytest.mark.parametrize("call", list(SAMPLING))
@pytest.mark.parametrize("name", ["paper", "inverted_tanh"])
def test_samples(name, call, transform):
    flow, tensors = problem(name)
    compare(lambda x, c: SAMPLING[call](flow, x, c), tensors, transform)


@every_transform
def test_samples_of_a_causal_flow_are_refused(transform):
    flow, tensors = problem("causal_published")
    for call in SAMPLING.values():
        with pytest.raises(RuntimeError, match="not differentiable"):
            TRANSFORMS[transform][0](lambda x, c, call=call: call(flow, x, c), tensors)


SINGLE = {
    "grad": lambda f, t: grad(lambda t: f(t).sum())(t),
    "jacrev": lambda f, t: jacrev(f)(t),
    "jvp": lambda f, t: jvp(f, (t,), (t,)),
    "jacfwd": lambda f, t: jacfwd(f)(t),
    "dual numbers": lambda f, t: _dual(f, (t,)),
    "grad of each row": lambda f, t: vmap(grad(lambda row: f(row.expand_as(t)).sum()))(t),
}


@pytest.mark.slow
@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize("transform", list(SINGLE))
@pytest.mark.parametrize("name", ["paper", "causal_published"])
def test_what_has_no_derivative_says_so(name, transform, argument):
    flow, tensors = problem(name)
    frozen = flow.freeze()
    cases = [(flow, call) for call in CONSTANT.values()]
    cases += [(frozen, call) for call in (CALLS | SAMPLING | CONSTANT).values()]
    for model, call in cases:

        def f(given, model=model, call=call):
            return call(model, *(given if place == argument else each for place, each in enumerate(tensors)))

        with pytest.raises(RuntimeError, match="no derivatives|no gradients|not differentiable"):
            SINGLE[transform](f, tensors[argument])


def test_a_frozen_flow_is_a_constant_where_one_asks_for_it():
    flow, (x, context) = problem("paper")
    frozen = flow.freeze()
    expected = frozen.log_prob(x, context).sum()
    actual = grad(lambda x: (frozen.log_prob(x, context).detach() * x[:, 0]).sum())(x)[:, 0].sum()
    torch.testing.assert_close(actual, expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        assert torch.equal(frozen.log_prob(dual.detach(), context), frozen.log_prob(x, context))


@pytest.mark.slow
@every_flow
def test_second_derivatives_of_every_kind_agree(name):
    flow, (x, context) = problem(name, rows=1)

    def f(x):
        return flow.log_prob(x, context).sum()

    expected = hessian(f)(x)
    # Plain autograd's first derivative, at points nearby.
    step, direction = 1e-5, torch.randn_like(x)
    ahead, behind = (jacobian(f, x + sign * step * direction) for sign in (1, -1))
    along = (expected.flatten(x.ndim) @ direction.flatten()).view_as(x)
    scale = expected.abs().max().item()
    torch.testing.assert_close(along, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5 * scale)
    for outer in (jacfwd, jacrev):
        for inner in (jacfwd, jacrev):
            torch.testing.assert_close(outer(inner(f))(x), expected, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("transform", ["grad", "grad of each row", "jvp"])
@every_flow
def test_parameters(name, transform):
    flow, (x, context) = problem(name)
    parameters = {key: parameter.detach() for key, parameter in flow.named_parameters()}
    expected = dict(zip(parameters, torch.autograd.grad(flow(x, context).sum(), list(flow.parameters())), strict=True))

    def f(parameters, x, context):
        return functional_call(flow, parameters, (x, context)).sum()

    if transform == "jvp":
        tangent = jvp(lambda p: f(p, x, context), (parameters,), (parameters,))[1]
        along = sum((expected[key] * parameter).sum() for key, parameter in parameters.items())
        torch.testing.assert_close(tangent, along, rtol=1e-9, atol=1e-9)
        return
    if transform == "grad":
        actual = grad(f)(parameters, x, context)
    else:
        each = vmap(grad(f), (None, 0, 0))(parameters, x, context)
        actual = {key: gradient.sum(0) for key, gradient in each.items()}
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["paper", "permuted"])
def test_tangents_of_parameters_pass_the_cache(name):
    flow, (x, context) = problem(name)
    with torch.no_grad():
        flow(x, context)
    parameters = {key: parameter.detach() for key, parameter in flow.named_parameters()}
    along = sum(
        (gradient * parameter).sum()
        for gradient, parameter in zip(
            torch.autograd.grad(flow(x, context).sum(), list(flow.parameters())), parameters.values(), strict=True
        )
    )
    with torch.no_grad(), forward_ad.dual_level():
        duals = {key: forward_ad.make_dual(value, value) for key, value in parameters.items()}
        tangent = forward_ad.unpack_dual(functional_call(flow, duals, (x, context)).sum()).tangent
    torch.testing.assert_close(tangent, along, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", list(SINGLE))
def test_tables_of_a_plane_say_that_they_have_no_derivatives(transform):
    flow = flows.make("two_features").eval()
    x, context = flows.make_inputs(flow, 3)
    with pytest.raises(
        RuntimeError, match="tabulated_log_prob_2d: it has no derivatives|data-dependent control flow|item()"
    ):
        SINGLE[transform](lambda x: tabulated_log_prob_2d(flow, x, context[0]), x)


# PyTorch's own, when it folds constants.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.parametrize(("name", "call"), [("paper", "log_prob"), ("paper", "rsample"), ("causal_prefix", "log_prob")])
def test_linearized_calls_are_tangents(name, call):
    flow, tensors = problem(name)

    def f(x, context):
        return (CALLS | SAMPLING)[call](flow, x, context)

    value, pushed = linearize(f, *tensors)
    expected = jvp(f, tensors, tensors)
    torch.testing.assert_close((value, pushed(*tensors)), expected)


@every_flow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_trace_is_the_call_for_other_arguments_too(name, frozen):
    flow, tensors = problem(name)
    flow = flow.freeze() if frozen else flow

    def call(x, context):
        return flow.log_prob(x, context), flow.score(x, context), flow.sample((), context, noise=x)

    traced, other = make_fx(call)(*tensors), flows.make_inputs(flow, 2, seed=2)
    for result, expected in zip(traced(*other), call(*other), strict=True):
        torch.testing.assert_close(result, expected)


def test_autograd_refuses_a_second_derivative_and_says_where_it_is():
    flow, (x, context) = problem("paper")
    (first,) = torch.autograd.grad(flow(x.requires_grad_(), context).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward.* not differentiable; .*torch.func.hessian"):
        first.sum().backward()
