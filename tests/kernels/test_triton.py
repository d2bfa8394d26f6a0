"""The Triton kernels, interpreted on the CPU, against the reference in float64.

The tolerance is that of every fast path: twice the reference's own error, and a few units of rounding in the precision
of the hidden products. Triton's interpreter gives wrong bfloat16 products, so 16 bits are float16 here.
"""

import itertools

import pytest
import torch
from support import flows

pytest.importorskip("triton", reason="Triton's interpreter is needed")
from support.coupling_problems import (
    DIRECTIONS,
    GRADIENT_NAMES,
    compare,
    compare_gradients_in_16_bits,
    gradients,
    mapping,
    problem,
    random_gradients,
    scores,
    single,
)
from support.interpreted import interpreted_kernels
from support.layouts import LAYOUTS, broken_promises, relaid
from support.selected import selected

from nfkern.kernels import CouplingParameters, causal_affine, compose, coupling, hidden_activation, use_reference
from nfkern.kernels import standard_normal_log_prob as base
from nfkern.kernels.coupling.conditioner import parameter_gradients
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.dispatch.examples import examples
from nfkern.kernels.dispatch.registry import find_kernel


@pytest.fixture(autouse=True, scope="module")
def _interpreted():
    with interpreted_kernels():
        yield


@pytest.fixture(params=["a launch a block", "one launch"])
def regime(request, monkeypatch):
    """Both ways to map: hidden units split over programs, and all blocks in one program."""
    from nfkern.kernels.coupling import triton_launch

    monkeypatch.setattr(
        triton_launch, "STEP_ROWS", triton_launch.STEP_ROWS if request.param == "a launch a block" else 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    selected(
        (name for name, options in flows.OPTIONS.items() if "bounds" not in options),
        ("odd_features", "unconditional", "unequal_hidden", "scale_bound"),
        part="sweeps",
    ),
)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.usefixtures("_poisoned")
def test_maps(name, direction, regime):
    x, term, matrices, parameters, settings = problem(name)
    call, arguments = mapping(direction, settings), (x, term, *matrices[direction == "to_data"], parameters)
    compare(call, arguments, ("result", "log_det"))
    compare(call, arguments, ("result", "log_det"), compute_dtype=torch.float16)


DERIVED = selected(
    itertools.product(
        ("paper", "odd_features", "two_features", "unequal_hidden", "one_block", "scale_bound"), (1, 4, 12)
    ),
    (("odd_features", 4), ("unequal_hidden", 12), ("scale_bound", 1)),
    part="sweeps",
)

SHAPES = {
    "shared_contexts": {"rows": 24, "groups": 4},
    "one_context": {"rows": 37, "groups": 1},
    "one_row": {"rows": 1, "groups": 1},
    "several_tiles": {"rows": 70, "groups": 70},
    "many_features": {"features": 64, "blocks": 1, "rows": 5, "groups": 5},
    "no_powers_of_two": {"hidden": (40, 33)},
    # Errors grow with the scales: only over many rows is the reference's largest one a measure of what is due.
    "large_log_scale": {"spread": 2.0, "rows": 128, "groups": 128},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", selected(SHAPES, ("one_context", "one_row", "several_tiles", "large_log_scale"), part="sweeps")
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_shapes(shape, direction, regime):
    x, term, matrices, parameters, settings = problem("paper", **SHAPES[shape])
    arguments = (x, term, *matrices[direction == "to_data"], parameters)
    # A row's log-determinant sums a log-scale for each transformed feature of each block.
    compare(mapping(direction, settings), arguments, ("result", "log_det"), terms=parameters.output_bias[:, 0].numel())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "groups"), DERIVED)
@pytest.mark.usefixtures("_poisoned")
def test_score(name, groups):
    z, term, matrices, parameters, settings = problem(name, rows=12, groups=groups)
    sweep, score = scores(settings)
    compare(sweep, (z, term, matrices[False][0], *matrices[True], parameters), ("x", "log_det", "score"))
    compare(score, (z, term, *matrices[False], parameters), ("score",))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "groups"), DERIVED)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.usefixtures("_poisoned")
def test_gradients(name, groups, direction):
    x, term, matrices, parameters, settings = problem(name, rows=12, groups=groups)
    weights = random_gradients(x)
    arguments = (x, term, *matrices[direction == "to_data"], parameters, weights)
    # Most are sums over rows, blocks or hidden units, the latter two folded into fewer roundings than rows have.
    compare(gradients(direction, settings), arguments, GRADIENT_NAMES, terms=len(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_parameters_from_sums_over_rows(dtype):
    """Two seeds, and widths that no tile divides; the product of layer 2 in the dtype of the hidden products."""
    from nfkern.kernels.coupling import triton_derivatives, triton_launch

    x, term, matrices, parameters, _ = single(problem("paper", hidden=(40, 33)))
    x, term, mixing, *parameters = (torch.stack([each, -each]) for each in (x, term, matrices[False][0], *parameters))
    parameters = CouplingParameters(*parameters)
    products = [torch.randn(2, 2, 2, *shape) for shape in ((40, 3), (33, 40), (3, 33), (1, 33), (1, 3))]
    products[1] = products[1].to(dtype)
    settings = Settings(1e-5, None, None)
    found = triton_derivatives._parameter_gradients(
        triton_launch.problem(x, term, mixing, parameters, settings), parameters, *products
    )
    exactly = CouplingParameters(*(p.double() for p in parameters))
    wide = parameter_gradients(exactly.shaped(), *(p.double() for p in products))
    plain = parameter_gradients(parameters.shaped(), *(p.float() for p in products))
    for name, actual, reference, exact in zip(CouplingParameters._fields, found, plain, wide, strict=True):
        due = 2 * (reference - exact).abs().max() + 4 * torch.finfo(torch.float32).eps * exact.abs().max()
        assert (actual - exact).abs().max() <= due, name


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_a_range_of_blocks_at_a_time(direction, monkeypatch):
    from nfkern.kernels.coupling import triton_derivatives

    monkeypatch.setattr(triton_derivatives, "SCRATCH_BYTES", 1)
    x, term, matrices, parameters, settings = problem("paper", rows=12, groups=12)
    weights = random_gradients(x)
    arguments = (x, term, *matrices[direction == "to_data"], parameters, weights)
    compare(gradients(direction, settings), arguments, GRADIENT_NAMES, terms=len(x))


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_in_16_bits(direction):
    x, term, matrices, parameters, settings = problem("paper", rows=64, groups=64)
    weights = random_gradients(x)
    arguments = (x, term, *matrices[direction == "to_data"], parameters, weights)
    compare_gradients_in_16_bits(gradients(direction, settings), arguments, GRADIENT_NAMES, torch.float16, 2**-11)


def test_folded_parameters_are_taken_as_they_are(regime):
    x, term, matrices, parameters, settings = problem("paper")
    for direction in DIRECTIONS:
        arguments = (x, term, *matrices[direction == "to_data"], coupling.fold(parameters))
        compare(mapping(direction, settings), arguments, ("result", "log_det"))


@pytest.mark.slow
def test_seeds_share_launches_and_stay_apart(regime):
    problems = [problem("paper", rows=9, groups=9, seed=seed) for seed in range(2)]
    for direction in DIRECTIONS:
        calls = []
        for x, term, matrices, parameters, settings in problems:
            weights = [torch.ones_like(x), torch.ones(len(x), dtype=x.dtype)]
            arguments = single((x, term, *matrices[direction == "to_data"]))
            calls.append((arguments, single(parameters), single(weights), gradients(direction, settings)))
        separate = [call(*arguments, parameters, weights) for arguments, parameters, weights, call in calls]
        leaves = [torch.stack(each).requires_grad_() for each in zip(*((*c[0], *c[1]) for c in calls), strict=True)]
        op = getattr(torch.ops.nfkern, f"coupling_{direction}").default
        result, log_det, *_ = op(*leaves, settings["norm_eps"], settings["scale_bound"], None)
        together = torch.autograd.grad(result.sum() + log_det.sum(), leaves)
        for grad, grads in zip(together, zip(*separate, strict=True), strict=True):
            # The kernels do the same for each seed, but sums over rows are batched products, which may add in another
            # order: some ten roundings of 6e-8 of sums of 9 rows of size 1 to 10.
            torch.testing.assert_close(grad, torch.stack(grads), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("features", [2, 5, 64])
@pytest.mark.parametrize("inverse", [False, True])
def test_compose(features, inverse):
    flow = flows.make_flow(features=features, blocks=2, dtype=torch.float32)
    results = []
    for reference in (True, False):
        lu = flow.mixing_lu.detach().clone().requires_grad_()
        with use_reference(reference):
            matrix, log_det = compose(lu, flow.permutation, inverse)
            grad = torch.autograd.grad((matrix * torch.linspace(-1, 1, features)).sum() + log_det, lu)[0]
        results.append((matrix, log_det, grad))
    for expected, actual in zip(*results, strict=True):
        # Both compute in float64, and differ by the order of sums at most.
        torch.testing.assert_close(actual, expected, rtol=2e-7, atol=2e-7 * expected.abs().max().item())


@pytest.mark.parametrize("shape", [(7, 5), (300, 2), (3, 4, 64), (5,)])
def test_base(shape):
    z = torch.randn(shape, requires_grad=True)
    grads = torch.randn(shape[:-1])
    with use_reference():
        expected = base(z)
        expected_grad = torch.autograd.grad(expected, z, grads)[0]
    torch.testing.assert_close(base(z), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(torch.autograd.grad(base(z), z, grads)[0], expected_grad)


@pytest.mark.slow
def test_two_runs_are_bit_equal():
    x, term, matrices, parameters, settings = problem("paper", rows=12, groups=12)
    weights = random_gradients(x)
    arguments = single((x, term, *matrices[False], parameters, weights))
    first, second = (gradients("to_latent", settings)(*arguments) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_whole_module_trains_on_the_kernels():
    flow = flows.make_flow("paper", torch.float32)
    x, context = flows.make_inputs(flow, 8)
    grads = []
    for reference in (True, False):
        flow.zero_grad()
        with use_reference(reference):
            flow(x, context).mean().backward()
        grads.append({name: p.grad.clone() for name, p in flow.named_parameters()})
    for name, expected in grads[0].items():
        # Float32 against float32, so looser than `test_gradients`, which bounds the error. This is about the wiring: a
        # gradient that goes astray is wrong by its own size.
        torch.testing.assert_close(grads[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.exhaustive(part="sweeps")
def test_opcheck():
    x, term, matrices, parameters, _ = problem("paper", rows=6, groups=3)
    settings = (1e-5, 1.5, None)
    for name, inverse in (("to_latent", False), ("to_data", True)):
        arguments = single((x, term, *matrices[inverse], *parameters))
        leaves = tuple(t.clone().requires_grad_() for t in arguments)
        torch.library.opcheck(getattr(torch.ops.nfkern, f"coupling_{name}").default, (*leaves, *settings))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name in examples() if find_kernel(name, "cuda")])
def test_results_lie_as_the_fake_kernel_promises(name, layout):
    op = getattr(torch.ops.nfkern, name).default
    assert broken_promises(op, relaid(single(examples()[name]), layout)) == []


@pytest.mark.parametrize("bound", [0.1, 1.0, 30.0, 1000.0, 1e4])
def test_a_bound_of_any_size_costs_no_digits(bound):
    """Raw numbers of every size below the bound, and far beyond it."""
    raw = torch.cat([torch.logspace(-6, 1.5, 60), -torch.logspace(-6, 1.5, 60), torch.tensor([1e3, -1e3])])
    x = torch.zeros(len(raw), 2, 1)
    log_scale = raw.clamp(-80, 80) if bound > 80 else raw
    pairs = torch.stack([log_scale, torch.zeros_like(raw)], 1).reshape(-1, 1, 2, 1)
    log_det = torch.zeros(len(raw))
    with use_reference():
        exact = causal_affine(x.double(), pairs.double(), log_det.double(), flipped=False, scale_bound=bound)[1]
        single = causal_affine(x, pairs, log_det, flipped=False, scale_bound=bound)[1]
    found = causal_affine(x, pairs, log_det, flipped=False, scale_bound=bound)[1]
    tolerance = 2 * (single - exact).abs() + 4 * torch.finfo(torch.float32).eps * exact.abs()
    assert ((found - exact).abs() <= tolerance).all(), ((found - exact).abs() / exact.abs()).max()


@pytest.mark.parametrize("bound", [None, 0.8])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("tokens", "features", "pairs"), [(5, 3, 5), (5, 3, 4), (2, 1, 1), (40, 33, 39)])
def test_causal_affine(tokens, features, pairs, flipped, bound):
    shapes = ((3, tokens, features), (3, pairs, 2, features), (3,))
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    grads = [torch.randn(shapes[0]), torch.randn(3)]
    results = []
    for reference in (True, False):
        with use_reference(reference):
            found = causal_affine(*inputs, flipped=flipped, scale_bound=bound)
            results.append((*found, *torch.autograd.grad(found, inputs, grads)))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6 * expected.abs().max().item())


# The first two widths are padded; the last rows take several tiles and, with as few programs, several steps of one.
@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("norm", ["first", "last", "none"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((5, 7), torch.float32), ((2, 33, 40), torch.float16), ((150, 512), torch.float32)],
    ids=["one tile", "members in 16 bits", "many tiles"],
)
@pytest.mark.usefixtures("_poisoned")
def test_hidden_activation(shape, dtype, norm, activation, monkeypatch):
    from nfkern.kernels.activation import triton_launch

    monkeypatch.setattr(triton_launch, "MOST_PARTS", 4)
    x, grad = (torch.randn(shape, dtype=dtype) for _ in range(2))
    parameters = [torch.randn(*shape[:-2], shape[-1]) for _ in range(3 if norm != "none" else 1)]

    def call(*given):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        result = hidden_activation(*leaves, activation=activation, norm_first=norm == "first")
        return result, *torch.autograd.grad(result, leaves, grad.to(result.dtype))

    with use_reference():
        exact = call(x.double(), *(each.double() for each in parameters))
        reference = call(x, *parameters)
    for found, right, near in zip(call(x, *parameters), exact, reference, strict=True):
        assert (found.dtype, found.shape) == (near.dtype, near.shape)
        rounding = 4 * torch.finfo(found.dtype).eps * shape[-2] ** 0.5
        allowed = 2 * (near.double() - right).abs().max() + rounding * right.abs().max()
        assert (found.double() - right).abs().max() <= allowed
