"""The causal flow's Triton kernels, interpreted on the CPU, against the reference in float64.

The tolerance is that of every fast path. As in `test_triton.py`, 16 bits are float16 here.
"""

import pytest
import torch

pytest.importorskip("triton", reason="Triton's interpreter is needed")
from support.causal_problems import NAMES, calls, problem
from support.coupling_problems import compare, random_gradients, single
from support.interpreted import interpreted_kernels
from support.selected import exhaustive, selected

from nfkern.kernels import CausalParameters, causal, use_reference
from nfkern.kernels.causal.parameters import HIDDEN

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_poisoned")]
# The interpreter takes some 5 ms for each program of a launch.
SMALL = {"blocks": 2, "layers": 1, "width": 24, "heads": 3, "expansion": 2, "rows": 4, "groups": 2}
LEAST = SMALL | {"width": 16, "heads": 2, "expansion": 1, "length": 2}


@pytest.fixture(autouse=True, scope="module")
def _interpreted():
    with interpreted_kernels():
        yield


def compare_all(compute_dtype=None, only=(0, 2), **options):
    """The maps of these indices; the last samples as the one before it does."""
    arguments, settings = problem(**options)
    for index, call in enumerate(calls(settings)):
        if index in only:
            compare(call, arguments, NAMES[: 3 if index == 2 else 2], 64, compute_dtype)


SHAPES = {
    "added": SMALL,
    "prefix": SMALL | {"name": "prefix", "scale_bound": 0.7},
    "two_layers": SMALL | {"layers": 2, "width": 15, "expansion": 1, "length": 3},
    "tiles_of_rows": LEAST | {"rows": 18, "groups": 18, "length": 3},
    "shorter": SMALL | {"name": "prefix", "length": 2, "groups": 1},
    "one_token": SMALL | {"name": "one_token"},
    "many_features": SMALL | {"features": 33, "length": 2},
}


@pytest.mark.parametrize("shape", selected(SHAPES, ("added", "prefix", "one_token", "tiles_of_rows"), part="sweeps"))
def test_maps(shape):
    compare_all(**SHAPES[shape])


@pytest.mark.parametrize("shape", ["added", "prefix"])
def test_maps_in_16_bits(shape):
    compare_all(torch.float16, **SHAPES[shape] | {"length": 3})


def test_attention_in_several_parts(monkeypatch):
    from nfkern.kernels.causal import triton_launch

    monkeypatch.setattr(triton_launch, "ATTENTION_ROWS", 3)
    monkeypatch.setattr(triton_launch, "ATTENTION_HELD", 32)
    compare_all(only=(0, 1), **LEAST | {"length": 5})


def launches():
    from nfkern.kernels.causal.triton_launch import LAUNCHES

    return dict.fromkeys(launch for entries in LAUNCHES.values() for _, launch in entries)


@pytest.mark.parametrize("launch", launches(), ids=lambda launch: f"{launch.tile}x{launch.chunk1}x{launch.chunk2}")
def test_every_launch(launch, monkeypatch):
    from nfkern.kernels.causal import triton_launch

    monkeypatch.setattr(triton_launch, "HELD", 64 * launch.tile)
    monkeypatch.setattr(triton_launch, "LAUNCHES", {"ieee": ((triton_launch.MANY, launch),)})
    compare_all(only=(0,), **SMALL | {"blocks": 1, "width": 72, "rows": 5, "groups": 5})


@pytest.mark.parametrize(
    ("shape", "annealed"), [("added", True), ("prefix", False), exhaustive(("prefix", True), part="sweeps")]
)
def test_guidance(shape, annealed):
    (z, term, parameters), settings = problem(**SHAPES[shape] | {"length": 3})
    without = torch.randn_like(term[:1])

    def call(z, term, without, parameters, compute_dtype=None):
        options = {"guidance": 1.5, "unconditional_term": without, "annealed": annealed}
        return causal.to_data(z, term, parameters, **settings, **options, compute_dtype=compute_dtype)

    compare(call, (z, term, without, parameters), NAMES[:2], 64)


@pytest.mark.parametrize("shape", ["added", "prefix"])
def test_gradients(shape):
    (x, term, parameters), settings = problem(**SHAPES[shape])
    weights = random_gradients(x)

    def call(x, term, parameters, weights, compute_dtype=None):
        leaves = [t.detach().clone().requires_grad_() for t in (x, term, *parameters)]
        results = causal.to_latent(*leaves[:2], CausalParameters(*leaves[2:]), **settings)
        return torch.autograd.grad(results, leaves, weights)

    # Most are sums over rows and positions.
    compare(call, (x, term, parameters, weights), ("x", "term", *CausalParameters._fields), terms=x[..., 0].numel())


def test_weights_in_16_bits_are_taken_as_they_are():
    arguments, settings = problem(**SMALL)
    x, term, parameters = single(arguments)
    stored = parameters._replace(**{name: getattr(parameters, name).half() for name in HIDDEN})
    to_latent, *_ = calls(settings)
    expected = to_latent(x, term, parameters, compute_dtype=torch.float16)
    for a, e in zip(to_latent(x, term, stored, compute_dtype=torch.float16), expected, strict=True):
        assert torch.equal(a, e)


def test_two_runs_are_bit_equal_and_leave_their_inputs_alone():
    arguments, settings = problem(**LEAST)
    x, term, parameters = single(arguments)
    before = [tensor.clone() for tensor in (x, term, *parameters)]
    for call in calls(settings):
        for a, b in zip(call(x, term, parameters), call(x, term, parameters), strict=True):
            assert torch.equal(a, b)
    for tensor, kept in zip((x, term, *parameters), before, strict=True):
        assert torch.equal(tensor, kept)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_an_event_that_is_not_finite_stays_alone():
    arguments, settings = problem(**LEAST)
    x, term, parameters = single(arguments)
    spoiled = x.clone()
    spoiled[2, 0, 1] = float("nan")
    others = torch.arange(len(x)) != 2
    for call in calls(settings):
        for a, clean in zip(call(spoiled, term, parameters), call(x, term, parameters), strict=True):
            assert torch.equal(a[others], clean[others])
            assert a[2].isnan().any()


def test_jacobi_runs_on_the_reference():
    arguments, settings = problem(**LEAST)
    z, term, parameters = single(arguments)
    options = settings | {"method": "jacobi"}
    with use_reference():
        expected = causal.to_data(z, term, parameters, **options)
    for a, e in zip(causal.to_data(z, term, parameters, **options), expected, strict=True):
        assert torch.equal(a, e)


def test_seeds_stay_apart():
    cases = [problem(seed=seed, **LEAST) for seed in range(2)]
    rest = (*cases[0][1].values(), None, None, 0.0, False, None)
    separate = [(x, term, *parameters) for x, term, parameters in (single(arguments) for arguments, _ in cases)]
    op = torch.ops.nfkern.causal_flow_to_data.default
    together = op(*(torch.stack(each) for each in zip(*separate, strict=True)), *rest)
    for seed, arguments in enumerate(separate):
        for a, expected in zip(together, op(*arguments, *rest), strict=True):
            assert torch.equal(a[seed], expected)


def test_results_are_those_of_the_fake_kernels():
    arguments, settings = problem(**LEAST)
    x, term, parameters = single(arguments)
    for name, rest in (("to_latent", ()), ("to_data", (None, 0.0, False, None)), ("to_data_with_score", ())):
        op = getattr(torch.ops.nfkern, f"causal_flow_{name}").default
        given = (x, term, *parameters, *settings.values(), None, *rest)
        torch.library.opcheck(op, given, test_utils=("test_schema", "test_faketensor"))
