"""Growth: grouping by the one axis that differs, and exponents of power laws that are known."""

import math
from dataclasses import replace

import pytest
from support.bench_records import ENVIRONMENT, record, refused, spread

from nfkern.bench.core.cases import CausalCase, FlowCase
from nfkern.bench.report.frame import frame
from nfkern.bench.report.scaling import families, fit

FLOWS = [FlowCase(f"wide_{width}", 5, 64, hidden=(width, width)) for width in (64, 128, 256)]
CASES = {
    case.name: case
    for case in (
        *FLOWS,
        *(FlowCase(f"uneven_{first}", 5, 64, hidden=(first, 256)) for first in (320, 384)),
        *(FlowCase(f"features_{features}", features, 64) for features in (2, 8)),
        *(CausalCase(f"tokens_{tokens}", tokens, 7, 256) for tokens in (2, 4, 8)),
    )
}


def law(case, batch, value, variant="nfkern", **changes):
    return record(variant, spread(value), case=case, batch=batch, **changes)


def found(records, quantity="median_s"):
    return {family.axis: family for family in families(frame({"": records}), quantity, CASES)}


@pytest.mark.parametrize(("coefficient", "exponent"), [(3e-5, 0.5), (1e-6, 1.0), (2e-3, 0.0), (1.0, -0.75)])
def test_a_power_law_is_found_again(coefficient, exponent):
    measured = fit({x: coefficient * x**exponent for x in (1, 16, 256, 4096)})
    assert tuple(measured) == pytest.approx((exponent, coefficient, 1.0, exponent))


def test_what_is_no_power_law_shows():
    # A call's fixed cost, then proportional: a line through all of it lies beside every point.
    measured = fit({x: 1e-4 + 1e-6 * x for x in (1, 100, 10_000)})
    assert measured.exponent < 0.6
    assert measured.last == pytest.approx(math.log(101e-4 / 2e-4) / math.log(100))
    assert measured.off > 1.5


@pytest.mark.parametrize("points", [{1: 1.0}, {1: 1.0, 2: 0.0}, {0: 1.0, 2: 1.0}])
def test_a_law_needs_points_with_logarithms(points):
    with pytest.raises(ValueError, match="at least two, all above 0"):
        fit(points)


def test_batches_of_one_case_make_a_family_with_a_curve_for_each_variant():
    records = [law("wide_256", batch, 1e-4 * batch) for batch in (256, 1, 16)]
    records += [law("wide_256", batch, 1e-3, "eager") for batch in (1, 16, 256)]
    # Too few points, and none at all.
    records += [law("wide_256", batch, 1e-3, "jax_jit") for batch in (1, 16)]
    records += [replace(refused("jax_jit"), case="wide_256", batch=256)]
    records += [law("gone", batch, 1e-3) for batch in (1, 16, 256)]
    (family,) = found(records).values()
    assert (family.axis, family.shared["work"], family.shared["features"]) == ("batch", "inverse", 5)
    # The slower one at the end lies above and comes first.
    assert list(family.curves) == ["nfkern", "eager"]
    assert family.curves["nfkern"] == pytest.approx({1: 1e-4, 16: 16e-4, 256: 256e-4})


def test_cases_that_differ_in_one_field_make_a_family_by_it():
    records = [law(case.name, 1, 1e-6 * case.hidden[0] ** 2) for case in FLOWS]
    records += [law(name, 1, 1e-3) for name in ("features_2", "features_8", "uneven_320", "uneven_384")]
    records += [law(f"tokens_{tokens}", 1, 1e-3 * tokens, work="causal_inverse") for tokens in (2, 4, 8)]
    by_axis = found(records)
    assert list(by_axis) == ["hidden", "features", "tokens"]
    # Widths that are unequal lie on no axis; the middle one of the features is the widest of the others.
    assert fit(by_axis["hidden"].curves["nfkern"]).exponent == pytest.approx(2.0)
    assert [list(by_axis[axis].curves["nfkern"]) for axis in by_axis] == [[64, 128, 256], [2, 5, 8], [2, 4, 8]]
    assert by_axis["tokens"].shared["work"] == "causal_inverse"
    uneven = found([law("uneven_320", batch, 1e-3) for batch in (1, 2, 4)])
    assert uneven["batch"].shared["widths"] == "320 x 256"
    assert found([law(f"uneven_{width}", batch, 1e-3) for width, batch in ((320, 1), (384, 2), (320, 4))]) == {}


def test_threads_are_an_axis_and_nothing_else_may_differ():
    counts = [law("wide_64", 256, 1e-3 / threads, threads=threads) for threads in (1, 2, 4)]
    assert set(found(counts)) == {"threads"}
    elsewhere = replace(ENVIRONMENT, device_name="Other")
    for change in ({"batch": 1}, {"work": "log_prob"}, {"environment": elsewhere}):
        assert found([replace(counts[0], **change), *counts[1:]]) == {}
    committed = replace(counts[0], environment=replace(ENVIRONMENT, commit="def"))
    assert set(found([committed, *counts[1:]])) == {"threads"}


def test_another_quantity_groups_the_records_that_have_it():
    records = [law("wide_64", batch, 1e-3, peak_bytes=batch % 4096 or None) for batch in (1, 16, 256, 4096)]
    (family,) = found(records, "peak_bytes").values()
    assert family.curves == {"nfkern": {1: 1, 16: 16, 256: 256}}


def test_of_two_records_at_one_point_the_later_counts():
    records = [law("wide_64", batch, 1e-3) for batch in (1, 16, 256)]
    later = replace(records[1], quantiles=spread(5e-3), date="2026-11-21T10:00:00+00:00")
    assert found([later, *records])["batch"].curves["nfkern"][16] == 5e-3
