"""The quality study summed up: numbers over seeds, costs, verdicts."""

from pathlib import Path

import pytest
from support.quality_results import results

from nfkern.bench.studies.quality.records import TRUTH
from nfkern.bench.studies.quality.report import REPORT, median, of_density
from nfkern.bench.studies.summary import Spread


def test_rows_are_numbers_over_seeds():
    found = REPORT.rows(results())
    row = found["pinwheel"]["nf"]
    assert row.spread("sliced_wasserstein") == Spread(pytest.approx(0.031), pytest.approx(0.002 / 2**0.5))
    assert (row.values["mmd"], row.values["learning_rate"]) == ([0.06, 0.064], [1e-3, 1e-3])
    # -log q is -0.8 and -0.9 where that of the density is -1.
    assert row.values["kl"] == [pytest.approx(0.2), pytest.approx(0.1)]
    assert (row.values["act 1"], row.values["act 256"]) == ([3e-4], [pytest.approx(48e-4)])
    assert found["chunk"][TRUTH].spread("sliced_wasserstein").mean == pytest.approx(0.0055)
    assert not {"parameters", "training_cpu_s", "act 1"} & found["chunk"][TRUTH].values.keys()


def test_a_policy_that_failed_has_its_reason_and_the_others_their_numbers():
    found = REPORT.rows(results())["chunk"]
    assert (found["ddpm_100"].error, found["nf"].error) == ("ValueError: <bad>", None)
    assert "sliced_wasserstein" not in found["ddpm_100"].values
    lines = {line[0]: line[1:] for line in of_density(found)[1]}
    assert lines["ddpm_100"][:2] == ["failed: ValueError: <bad>", ""]
    assert lines["nf"][7:] == ["12.5 ± 0.0", "0.500 ± 0.000", "0.001", "64,000"]


def test_verdicts_say_who_is_ahead_of_the_flow_and_what_nothing_beats():
    # On chunk 0.031 and 0.032 with deviations of 0.0014 are no difference, and the density itself is no rival.
    assert REPORT.verdicts(results()) == [
        "pinwheel: nearer to the density than nf, beyond the seeds' spread: mixture, ddpm_100.",
        "pinwheel: no policy is both faster and nearer than these: mixture.",
        "chunk: nearer to the density than nf, beyond the seeds' spread: no other policy.",
        "chunk: no policy is both faster and nearer than these: mixture, nf.",
    ]


def test_two_ways_through_one_training_differ_in_every_record():
    """A training that has collapsed samples alike in all ways: such a record says nothing of the policies."""
    for path in (Path(__file__).parents[3] / "bench" / "results" / "quality").glob("*.json"):
        for found in REPORT.rows(REPORT.read(path)).values():
            for fewer, more in (("flow_matching_1", "flow_matching_10"), ("ddim_10", "ddpm_100")):
                one, other = (found[name].spread("sliced_wasserstein").mean for name in (fewer, more))
                assert one > 1.05 * other


def test_costs_are_medians_over_the_densities():
    assert [median(times) for times in ([], [3.0, 1.0, 2.0], [8.0, 1.0, 3.0, 2.0])] == ["", "2.00 s", "2.50 s"]
