"""The native CPU kernels against the reference in float64, with every instruction set that this machine has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import flows
from support.coupling_problems import (
    DIRECTIONS,
    GRADIENT_NAMES,
    compare,
    compare_gradients_in_16_bits,
    compare_in_float64,
    gradients,
    mapping,
    problem,
    random_gradients,
    scores,
    single,
)

from nfkern.kernels import coupling, use_reference
from nfkern.kernels.dispatch import native_extension

pytestmark = pytest.mark.usefixtures("_poisoned", "_native")
BF16 = torch.bfloat16


def everything(name="paper", **options):
    """Both maps, both scores and all gradients of a problem: call, arguments, names and terms of the sums of each."""
    x, term, matrices, parameters, settings = problem(name, **options)
    units = max(parameters.hidden_weight.shape[-2:])
    sweep, score = scores(settings)
    yield sweep, (x, term, matrices[False][0], *matrices[True], parameters), ("x", "log_det", "score"), units
    yield score, (x, term, *matrices[False], parameters), ("score",), units
    for direction in DIRECTIONS:
        arguments = (x, term, *matrices[direction == "to_data"], parameters)
        yield mapping(direction, settings), arguments, ("result", "log_det"), units
        # Sums over rows of sums over hidden units.
        arguments = (*arguments, random_gradients(x))
        yield gradients(direction, settings), arguments, GRADIENT_NAMES, len(x) * units


def compare_everything(name="paper", **options):
    """Both precisions of `everything`."""
    for case in everything(name, **options):
        compare(*case)
        compare_in_float64(*case)


@pytest.mark.parametrize("name", list(flows.OPTIONS))
def test_named_flows(name, instruction_set):
    compare_everything(name, blocks=flows.OPTIONS[name].get("blocks", 2))


SHAPES = {
    "one_row": {"rows": 1, "groups": 1},
    "one_context": {"rows": 40, "groups": 1},
    "shared_contexts": {"rows": 25, "groups": 5},
    "a_group_over_two_panels": {"rows": 66, "groups": 3},
    "a_panel": {"rows": 32, "groups": 32},
    "a_row_more_than_a_panel": {"rows": 33, "groups": 11},
    "odd_widths": {"hidden": (33, 40), "rows": 17, "groups": 17},
    "odd_second_width": {"hidden": (40, 33), "rows": 9, "groups": 3},
    "unequal_widths": {"hidden": (17, 5), "rows": 24, "groups": 4},
    "narrower_than_a_vector": {"hidden": (3, 2), "rows": 8, "groups": 8},
    "one_unit": {"hidden": (3, 1), "rows": 8, "groups": 8},
    "many_features": {"features": 64, "blocks": 1, "rows": 5, "groups": 5},
    "odd_features": {"features": 33, "blocks": 1, "rows": 40, "groups": 10},
    "three_features": {"features": 3, "rows": 16, "groups": 2},
    "large_log_scale": {"spread": 2.0},
    "tiny_log_scale": {"spread": 1e-6},
    "tight_scale_bound": {"spread": 1.0, "scale_bound": 0.5},
}
LARGE_SHAPES = {
    "wide": {"hidden": (320, 256), "rows": 40, "groups": 8},
    "two_chunks": {"rows": 300, "groups": 300},
    "two_chunks_of_one_context": {"rows": 300, "groups": 1},
    "two_chunks_of_shared_contexts": {"rows": 300, "groups": 60, "hidden": (33, 40)},
    "three_chunks_and_a_row": {"rows": 513, "groups": 27, "hidden": (17, 70)},
    "three_chunks_of_many_features": {"rows": 513, "groups": 513, "features": 20},
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_shapes(shape, instruction_set):
    compare_everything(**SHAPES[shape])


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(LARGE_SHAPES))
def test_large_shapes(shape, instruction_set):
    compare_everything(**LARGE_SHAPES[shape])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("compute_dtype", [None, BF16])
def test_any_number_of_rows(direction, compute_dtype, instruction_set):
    """Rows are cut into panels and single rows, and each is right wherever the cuts fall."""
    x, term, matrices, parameters, settings = problem(rows=70, groups=70, hidden=(20, 18))
    arguments = (x, term, *matrices[direction == "to_data"], parameters)
    sweep, _ = scores(settings)

    def call(x, term, mixing, mixing_log_det, parameters, compute_dtype=None):
        results = mapping(direction, settings)(x, term, mixing, mixing_log_det, parameters, compute_dtype=compute_dtype)
        # Of some density, whose matrices need not be the inverses of each other.
        score = sweep(x, term, mixing, mixing, mixing_log_det, parameters, compute_dtype=compute_dtype)[2]
        return *results, score

    with use_reference():
        exact, reference = call(*arguments), call(*single(arguments), compute_dtype=compute_dtype)
    eps = torch.finfo(compute_dtype or torch.float32).eps
    pairs = zip(reference, exact, strict=True)
    allowed = [2 * (r.double() - e).abs().max() + 4 * eps * e.abs().max() for r, e in pairs]
    if compute_dtype:
        # A score is a gradient, see `compare_gradients_in_16_bits`.
        allowed[2] = 0.2 * exact[2].abs().max()
    x, term, *others = single(arguments)
    for rows in range(1, 71):
        # The last rows, so that each row's place in its panel changes.
        actual = call(x[-rows:], term[-rows:], *others, compute_dtype=compute_dtype)
        for a, e, bound in zip(actual, exact, allowed, strict=True):
            assert (a.double() - e[-rows:]).abs().max() <= bound, rows


FOLDED_SHAPES = {
    "one_row": {"rows": 1, "groups": 1},
    "rows_and_panels": {"rows": 70, "groups": 7},
    "odd_widths": {"hidden": (33, 21), "rows": 41, "groups": 41},
    "wide": {"hidden": (160, 136), "rows": 33, "groups": 1},
    "more_than_caches_hold": {"hidden": (733, 729), "blocks": 4, "rows": 3, "groups": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(FOLDED_SHAPES))
@pytest.mark.parametrize("compute_dtype", [None, BF16])
def test_folded_sets(shape, compute_dtype, instruction_set):
    x, term, matrices, parameters, settings = problem(**FOLDED_SHAPES[shape])
    folded = coupling.fold(parameters)
    terms = max(parameters.hidden_weight.shape[-2:])
    sweep, score = scores(settings)

    def lowered(call):
        """The call with the hidden weights as they are kept for acting."""

        def lowering(*arguments, compute_dtype=None):
            *others, folded = arguments
            hidden_weight = folded.hidden_weight.to(compute_dtype or folded.hidden_weight.dtype)
            return call(*others, folded._replace(hidden_weight=hidden_weight), compute_dtype=compute_dtype)

        return lowering

    cases = [(mapping(d, settings), matrices[d == "to_data"], ("result", "log_det")) for d in DIRECTIONS]
    cases.append((sweep, (matrices[False][0], *matrices[True]), ("x", "log_det", "score")))
    cases.append((score, matrices[False], ("score",)))
    for call, mixing, names in cases:
        compare(lowered(call), (x, term, *mixing, folded), names, terms, compute_dtype)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("groups", [1, 7, 70])
def test_gradients_of_a_folded_set(direction, groups, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=70, groups=groups)
    folded = coupling.fold(parameters)
    weights = random_gradients(x)

    def call(*arguments, compute_dtype=None):
        leaves = [t.detach().clone().requires_grad_() for t in arguments[:4]]
        result, log_det = mapping(direction, settings)(*leaves, arguments[4], compute_dtype=compute_dtype)
        loss = (result * weights[0].to(result)).sum() + (log_det * weights[1].to(result)).sum()
        return torch.autograd.grad(loss, leaves)

    arguments = (x, term, *matrices[direction == "to_data"], folded)
    compare(call, arguments, GRADIENT_NAMES[:4], terms=len(x))
    compare_in_float64(call, arguments, GRADIENT_NAMES[:4], terms=len(x))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rounding_errors_have_the_references_mean_square(direction, instruction_set):
    """The largest error, which other tests bound, is one row's; sums that are too long show in all rows."""
    x, term, matrices, parameters, settings = problem(rows=512, groups=512, features=4, blocks=6, hidden=(256, 256))
    call, arguments = mapping(direction, settings), (x, term, *matrices[direction == "to_data"], parameters)
    with use_reference():
        exact, reference = call(*arguments), call(*single(arguments))
    for e, r, a in zip(exact, reference, call(*single(arguments)), strict=True):
        assert (a - e).square().mean() <= 2 * (r - e).square().mean()


@pytest.mark.parametrize("shape", ["shared_contexts", "odd_widths", "odd_second_width", "one_row", "many_features"])
def test_maps_in_bfloat16(shape, instruction_set):
    x, term, matrices, parameters, settings = problem(**SHAPES[shape])
    for direction in DIRECTIONS:
        arguments = (x, term, *matrices[direction == "to_data"], parameters)
        compare(mapping(direction, settings), arguments, ("result", "log_det"), compute_dtype=BF16)


@pytest.mark.parametrize("options", [{}, {"hidden": (33, 40)}, {"hidden": (40, 33)}, {"hidden": (33, 17)}], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_in_bfloat16(direction, options, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=64, groups=16, **options)
    arguments = (x, term, *matrices[direction == "to_data"], parameters, random_gradients(x))
    compare_gradients_in_16_bits(gradients(direction, settings), arguments, GRADIENT_NAMES, BF16, 2**-8)


SIZES = st.tuples(
    st.integers(1, 24), st.integers(1, 4), st.integers(2, 20), st.integers(3, 40), st.integers(3, 40), st.integers(1, 3)
)


@pytest.mark.slow
@settings(max_examples=60)
@given(SIZES)
def test_any_sizes(sizes):
    """Errors of indices are as large as the values, and rounding of a few units alone may be far off its estimate."""
    groups, share, features, width1, width2, blocks = sizes
    options = {"rows": groups * share, "groups": groups, "features": features, "blocks": blocks}
    for call, arguments, names, _ in everything(hidden=(width1, width2), **options):
        with use_reference():
            exact, reference = call(*arguments), call(*single(arguments))
        for name in native_extension.instruction_sets():
            with native_extension.use_instruction_set(name):
                results = call(*arguments), call(*single(arguments))
            for what, e, r, double, float_ in zip(names, exact, reference, *results, strict=True):
                assert (double - e).abs().max() <= 1e-9 * e.abs().max() + 1e-12, (name, what)
                allowed = 20 * (r.double() - e).abs().max() + 1e-4 * e.abs().max() + 1e-6
                assert (float_.double() - e).abs().max() <= allowed, (name, what)


@pytest.mark.parametrize("name", list(flows.OPTIONS))
def test_whole_modules(name, instruction_set):
    results = []
    for dtype, reference in ((torch.float64, True), (torch.float32, True), (torch.float32, False)):
        flow = flows.make_flow(name, dtype).eval()
        x, context = (None if t is None else t.to(dtype) for t in flows.make_inputs(flows.make_flow(name), 21))
        with use_reference(reference):
            log_prob = flow(x, context)
            log_prob.mean().backward()
            grads = {name: p.grad for name, p in flow.named_parameters()}
            results.append({"log_prob": log_prob.detach(), "score": flow.score(x, context), **grads})
    for key, exact in results[0].items():
        allowed = 2 * (results[1][key].double() - exact).abs().max() + 4 * 2**-23 * 21**0.5 * exact.abs().max()
        assert (results[2][key].double() - exact).abs().max() <= allowed, key
