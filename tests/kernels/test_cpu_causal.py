"""The causal flow's native CPU kernels against the reference, with every instruction set that this machine has."""

import itertools

import pytest
import torch
from support import flows
from support.causal_problems import NAMES, calls, problem
from support.coupling_problems import compare, compare_in_float64, single
from support.selected import selected

from nfkern.kernels import causal, use_reference
from nfkern.kernels.dispatch import native_extension

pytestmark = pytest.mark.usefixtures("_poisoned", "_native")


def compare_all(compute_dtype=None, terms=64, **options):
    arguments, settings = problem(**options)
    for call, count in zip(calls(settings), (2, 2, 3), strict=True):
        compare(call, arguments, NAMES[:count], terms, compute_dtype)
        if compute_dtype is None:
            compare_in_float64(call, arguments, NAMES[:count], terms)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(flows.CAUSAL_OPTIONS))
def test_named_flows(name, instruction_set):
    compare_all(name=name)


SHAPES = {
    "one_row": {"rows": 1, "groups": 1},
    "one_context": {"rows": 40, "groups": 1},
    "shared_contexts": {"rows": 24, "groups": 4},
    "panels_and_a_row": {"rows": 33, "groups": 33},
    "panels_and_rows": {"rows": 70, "groups": 70, "length": 3},
    "shorter": {"length": 3},
    "shorter_prefix": {"name": "prefix", "length": 2, "rows": 9, "groups": 3},
    "one_token": {"name": "prefix", "length": 1, "rows": 18, "groups": 18},
    "long": {"tokens": 40, "rows": 2, "groups": 2, "blocks": 2},
    "odd_widths": {"width": 33, "heads": 3, "expansion": 1, "rows": 9, "groups": 9},
    "narrow": {"width": 3, "heads": 1, "rows": 20, "groups": 20},
    "many_features": {"features": 33, "rows": 3, "groups": 3},
    "one_layer": {"layers": 1, "rows": 17, "groups": 17},
    "prefix": {"name": "prefix", "rows": 19, "groups": 19},
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(SHAPES))
def test_shapes(shape, instruction_set):
    compare_all(**SHAPES[shape])


@pytest.mark.parametrize("shape", ["one_row", "shared_contexts", "odd_widths", "prefix"])
def test_maps_in_bfloat16(shape, instruction_set):
    compare_all(torch.bfloat16, **SHAPES[shape])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["add", "prefix"])
def test_any_number_of_rows(mode, instruction_set):
    """Columns are cut into panels and single ones, and each is right wherever the cuts fall."""
    (x, term, parameters), settings = problem(rows=40, groups=40, context_mode=mode)
    for call in calls(settings):
        with use_reference():
            exact, reference = call(x, term, parameters), call(*single((x, term, parameters)))
        allowed = [
            2 * (r.double() - e).abs().max() + 2**-21 * e.abs().max() for r, e in zip(reference, exact, strict=True)
        ]
        narrow = single((x, term, parameters))
        for rows in range(1, 41):
            actual = call(narrow[0][-rows:], narrow[1][-rows:], narrow[2])
            for a, e, bound in zip(actual, exact, allowed, strict=True):
                assert (a.double() - e[-rows:]).abs().max() <= bound, rows


@pytest.mark.slow
@pytest.mark.parametrize("annealed", [False, True])
@pytest.mark.parametrize("shape", ["one_row", "shared_contexts", "panels_and_a_row", "shorter_prefix"])
def test_guided_sampling(shape, annealed, instruction_set):
    (x, term, parameters), settings = problem(**SHAPES[shape])
    unconditional = torch.randn_like(term[:1])

    def call(x, term, unconditional, parameters, compute_dtype=None):
        options = {"guidance": 1.5, "unconditional_term": unconditional, "annealed": annealed}
        return causal.to_data(x, term, parameters, **settings, **options, compute_dtype=compute_dtype)

    for compute_dtype in (None, torch.bfloat16):
        compare(call, (x, term, unconditional, parameters), NAMES[:2], 64, compute_dtype)
    compare_in_float64(call, (x, term, unconditional, parameters), NAMES[:2], 64)


def test_an_event_that_is_not_finite_stays_alone(instruction_set):
    arguments, settings = problem(rows=20, groups=20)
    x, term, parameters = single(arguments)
    spoiled = x.clone()
    spoiled[7, 1, 1] = float("nan")
    others = torch.arange(20) != 7
    for call in calls(settings):
        with use_reference():
            expected = call(spoiled, term, parameters)
        for a, clean, e in zip(call(spoiled, term, parameters), call(x, term, parameters), expected, strict=True):
            assert torch.equal(a[others], clean[others])
            assert torch.equal(a.isnan(), e.isnan())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "compute_dtype"),
    selected(itertools.product((1, 4), (None, torch.bfloat16)), ((4, None), (4, torch.bfloat16)), part="sweeps"),
)
def test_few_rows_are_shared_by_threads(heads, compute_dtype, instruction_set):
    """Each output is one thread's, and its sum the same whosever it is. In bfloat16 too a block has 3 MiB to share."""
    (x, term, parameters), settings = problem(rows=4, width=260, heads=heads, blocks=2, layers=2, expansion=4)
    arguments = single((x, term[:1], parameters))
    to_latent, to_data, _ = calls(settings)
    before = torch.get_num_threads()
    try:
        for call, rows in ((to_latent, 1), (to_data, 1), (to_data, 4)):
            torch.set_num_threads(1)
            alone = call(arguments[0][:rows], *arguments[1:], compute_dtype=compute_dtype)
            for threads in (2, 3):
                torch.set_num_threads(threads)
                together = call(arguments[0][:rows], *arguments[1:], compute_dtype=compute_dtype)
                assert all(map(torch.equal, together, alone))
    finally:
        torch.set_num_threads(before)


def test_threads_change_nothing_but_rounding(instruction_set):
    arguments, settings = problem(rows=70, groups=70)
    before = torch.get_num_threads()
    try:
        for call in calls(settings):
            torch.set_num_threads(1)
            alone = call(*single(arguments))
            torch.set_num_threads(2)
            first, second = call(*single(arguments)), call(*single(arguments))
            for a, b, expected in zip(first, second, alone, strict=True):
                assert torch.equal(a, b)
                assert (a - expected).abs().max() <= 1e-5 * expected.abs().max()
    finally:
        torch.set_num_threads(before)


def test_iteration_runs_on_the_reference():
    from nfkern.kernels.causal.cpu_kernels import sampling_reasons
    from nfkern.kernels.causal.reference import Settings

    x, settings = torch.zeros(1, 5, 3), Settings(2, False, 1e-5, None, None)
    assert sampling_reasons(x, settings, None, 0.0, False, None) == []
    assert sampling_reasons(x, settings, torch.zeros(1, 3, 16), 1.0, False, None) == []
    assert "jacobi" in sampling_reasons(x, settings, None, 0.0, False, 1e-6)[0]
    assert native_extension.instruction_sets()
