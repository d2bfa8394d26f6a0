"""The quality study summed up: numbers over seeds, tables, verdicts."""

from pathlib import Path

import pytest
from support.quality_results import results

from nfkern.bench.studies.quality.records import TRUTH
from nfkern.bench.studies.quality.report import REPORT, costs, document, median, of_density, rows
from nfkern.bench.studies.summary import Spread


def test_rows_are_numbers_over_seeds():
    row = rows(results())["pinwheel"]["nf"]
    assert row.spread("sliced_wasserstein") == Spread(pytest.approx(0.031), pytest.approx(0.002 / 2**0.5))
    assert (row.values["mmd"], row.values["learning_rate"]) == ([0.06, 0.064], [1e-3, 1e-3])
    # -log q is -0.8 and -0.9 where that of the density is -1.
    assert row.values["kl"] == [pytest.approx(0.2), pytest.approx(0.1)]
    assert (row.values["act 1"], row.values["act 256"]) == ([3e-4], [pytest.approx(48e-4)])


def test_a_policy_that_failed_has_its_reason_and_the_others_their_numbers():
    found = rows(results())["chunk"]
    assert (found["ddpm_100"].error, found["nf"].error) == ("ValueError: <bad>", None)
    assert "sliced_wasserstein" not in found["ddpm_100"].values
    assert found[TRUTH].spread("sliced_wasserstein").mean == pytest.approx(0.0055)
    lines = {line[0]: line[1:] for line in of_density(found)[1]}
    assert lines["ddpm_100"][:2] == ["failed: ValueError: <bad>", ""]
    assert lines["nf"] == [
        *("0.0310 ± 0.0014", "0.0620 ± 0.0028", "0.150 ± 0.071", "75 %", "10 %", "300 us", "4.80 ms"),
        *("12.5 ± 0.0", "0.500 ± 0.000", "0.001", "64,000"),
    ]
    assert lines["the density itself"][5:] == [""] * 6


def test_tables_have_every_density_and_what_cannot_be_is_empty():
    tables = [table for _, table in document(results(), rows(results()))]
    head, lines = tables[0]
    assert head == ["policy", "pinwheel", "chunk"]
    assert lines[0] == ["nf", "0.0310 ± 0.0014", "0.0310 ± 0.0014"]
    assert lines[2] == ["ddpm_100", "0.0200 ± 0.0000", ""]
    assert lines[3] == ["the density itself", "0.0055 ± 0.0007", "0.0055 ± 0.0007"]
    assert tables[2][1][0] == ["nf", "75 % / 10 %", "75 % / 10 %"]
    assert [line[0] for line in tables[3][1]] == ["nf", "mixture"]
    head, lines = costs(results(), rows(results()))
    assert head[1:5] == ["parameters", "act, 1 x 2", "act, 256 x 2", "training, 2"]
    assert lines[0][1:5] == ["64,000", "300 us", "4.80 ms", "12.5 s"]


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
        for found in rows(REPORT.read(path)).values():
            for fewer, more in (("flow_matching_1", "flow_matching_10"), ("ddim_10", "ddpm_100")):
                one, other = (found[name].spread("sliced_wasserstein").mean for name in (fewer, more))
                assert one > 1.05 * other


@pytest.mark.parametrize(
    ("seconds", "shown"), [([], ""), ([3.0, 1.0, 2.0], "2.00 s"), ([8.0, 1.0, 3.0, 2.0], "2.50 s")]
)
def test_costs_are_medians_over_the_densities(seconds, shown):
    assert median(seconds) == shown
