"""Every op under every transform of `torch.func` and forward-mode AD: its own derivative, or an error, never zeros."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.examples import examples

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

REFUSED = {"causal_flow_to_data", "causal_flow_to_data_with_score"}
every_op = pytest.mark.parametrize("name", [n + variant for n in examples() for variant in ("", "_reference")])


def problem(name):
    """A number that depends on all results of an op, as a function of its floating-point tensors, and these."""
    torch.manual_seed(0)
    arguments = list(examples()[name.removesuffix("_reference")])
    places = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor) and a.is_floating_point()]
    op = getattr(torch.ops.nfkern, name).default
    # The rest are inputs of blocks and hidden units, which the derivative takes as they are.
    count = 2 if name.startswith(("coupling_to_latent", "coupling_to_data", "causal_flow_to_latent")) else None
    count = None if "backward" in name or "score" in name else count

    def call(*tensors):
        full = list(arguments)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        results = op(*full)
        results = (results,) if isinstance(results, torch.Tensor) else results
        return sum((result.sin() * (k + 1)).sum() for k, result in enumerate(results[:count]))

    return call, tuple(arguments[place] for place in places)


def along_by_differences(call, tensors, directions, step=1e-6):
    ahead, behind = (call(*(t + sign * step * d for t, d in zip(tensors, directions, strict=True))) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


def _dual(call, tensors, directions):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(*map(forward_ad.make_dual, tensors, directions))).tangent


def _along(gradients, directions):
    return sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))


TRANSFORMS = {
    "grad": lambda f, t, d: _along(grad(f, tuple(range(len(t))))(*t), d),
    "jacrev": lambda f, t, d: _along(jacrev(f, tuple(range(len(t))))(*t), d),
    "jvp": lambda f, t, d: jvp(f, t, d)[1],
    "dual numbers": _dual,
    "vmap of jvp": lambda f, t, d: vmap(lambda *d: jvp(f, t, d)[1])(*(each[None] for each in d))[0],
    "vmap of grad": lambda f, t, d: _along(
        [g[0] for g in vmap(grad(f, tuple(range(len(t)))))(*(each[None] for each in t))], d
    ),
    "jvp of a line": lambda f, t, d: jacfwd(lambda s: f(*(a + s * b for a, b in zip(t, d, strict=True))))(
        torch.zeros((), dtype=torch.float64)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("transform", list(TRANSFORMS))
@every_op
def test_transforms(name, transform):
    call, tensors = problem(name)
    directions = tuple(torch.randn_like(t) for t in tensors)
    if name.removesuffix("_reference") in REFUSED:
        with pytest.raises(RuntimeError, match=rf"nfkern: {name.removesuffix('_reference')} is not differentiable"):
            TRANSFORMS[transform](call, tensors, directions)
        return
    expected = along_by_differences(call, tensors, directions)
    assert expected.abs() > 1e-3
    torch.testing.assert_close(TRANSFORMS[transform](call, tensors, directions), expected, rtol=1e-5, atol=1e-5)


ROW_OPS = [name for name in examples() if registry._ops[name].rows is not None]


@pytest.mark.parametrize("name", ROW_OPS)
def test_more_rows_are_the_calls_one_after_the_other(name):
    rows, arguments = registry._ops[name].rows, list(examples()[name])
    if name.endswith(("to_latent_backward", "to_data_backward")):
        # Without gradients of the weights, which are sums over rows.
        arguments[-1] = False
    op = getattr(torch.ops.nfkern, name).default
    places = sorted({*rows.arguments, *({rows.groups} - {None})})
    for mapped in itertools.chain.from_iterable(itertools.combinations(places, n) for n in range(1, len(places) + 1)):
        dims = tuple(-1 if place in mapped else None for place in range(len(arguments)))
        full = [torch.stack([a, 2 * a, a - 1], -1) if i in mapped else a for i, a in enumerate(arguments)]
        actual = vmap(op, dims)(*full)
        for k in range(3):
            expected = op(*(a[..., k] if i in mapped else a for i, a in enumerate(full)))
            pairs = (
                [(actual[k], expected)]
                if isinstance(expected, torch.Tensor)
                else [(a[k], e) for a, e, axis in zip(actual, expected, rows.results, strict=True) if axis is not None]
            )
            for got, wanted in pairs:
                torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
