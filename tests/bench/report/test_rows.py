"""The verdict of a row, and the sentence about all of them."""

from dataclasses import replace

import pytest
from support.bench_records import record, refused, spread
from support.bench_rows import row, timed

from nfkern.bench.core.timing import quantiles
from nfkern.bench.report.rows import timed_rows, verdict


@pytest.mark.parametrize(
    ("ours", "peer", "word"),
    [(1.0, 2.0, "ahead"), (1.0, 1.06, "ahead"), (1.0, 1.04, "even"), (1.01, 1.0, "even"), (1.04, 1.0, "behind")],
)
def test_a_row_is_ahead_even_or_behind(ours, peer, word):
    found = timed(nfkern=ours, eager=peer)
    assert found.word == word
    assert found.ratio == pytest.approx(peer / ours)


def test_noise_makes_even_what_the_medians_do_not():
    assert row(record("nfkern", spread(1e-3, 0.4)), record("eager", spread(1.3e-3, 0.4))).word == "even"
    # Of a single call nothing is known.
    assert row(record("nfkern", quantiles([1.0])), record("eager", quantiles([2.0]))).word == "even"


def test_the_best_are_of_one_precision_and_floors_are_no_peers():
    found = timed(eager=9, jax_jit=4, nfkern=5, nfkern_frozen=3, nfkern_frozen_bf16=2, gemm=1, gemm_bf16=0.5, zuko=2.5)
    assert (found.ours.variant, found.peer.variant, found.best.variant) == ("nfkern_frozen", "jax_jit", "nfkern_frozen")
    assert found.ours_coarser.variant == "nfkern_frozen_bf16"
    assert found.floor.variant == "gemm"
    assert [each.variant for each in found.other_functions_ahead] == ["zuko"]
    # In bf16 it would be ahead: that does not count against a peer in fp32.
    assert timed(jax_jit=4, nfkern=5, nfkern_frozen_bf16=2).word == "behind"


def test_results_to_a_tolerance_are_no_lead():
    found = timed(eager=9, nfkern=5, nfkern_tables=1)
    assert (found.ours.variant, found.ours_coarser.variant, round(found.ratio, 6)) == ("nfkern", "nfkern_tables", 1.8)
    assert found.other_functions_ahead == []


@pytest.mark.parametrize("other", ["gemm", "row_loop", "zuko"])
def test_where_nothing_does_the_same_job_nobody_is_ahead(other):
    found = timed(nfkern=1, **{other: 0.5})
    assert (found.peer, found.word, found.ratio, found.best.variant) == (None, "alone", None, "nfkern")


def test_a_frozen_lead_does_not_hide_that_the_call_is_behind():
    found = timed(nfkern=3, nfkern_frozen=1, eager=2)
    assert (found.word, found.called_behind.variant) == ("ahead", "nfkern")
    assert timed(nfkern=1.9, nfkern_frozen=1, eager=2).called_behind is None
    medians = {"nfkern": 2.2, "nfkern_frozen": 1, "eager": 2}
    within_noise = row(*(record(name, spread(median, 0.4)) for name, median in medians.items()))
    assert within_noise.called_behind.variant == "nfkern"
    # It is told as behind already.
    assert timed(nfkern=3, nfkern_frozen=2.5, eager=2).called_behind is None


def test_the_verdict_counts_rows_that_have_both():
    ahead, behind, even = timed(nfkern=1, eager=2), timed(nfkern=2, eager=1), timed(nfkern=1, jax_jit=1)
    failed, alone = row(record("eager"), refused("nfkern")), timed(nfkern=1, gemm=1)
    assert failed.word == "alone"
    assert [each.variant for each in failed.refused] == ["nfkern"]
    assert verdict([ahead, behind, even, failed, alone]) == (
        "nfkern at its fastest is ahead of the best peer in 1 of 3 rows, even in 1 and behind in 1."
    )
    assert " is ahead of eager PyTorch, the only peer measured here, in 1 of 2 rows, even" in verdict([ahead, behind])
    assert "slower than that peer in 1 more." in verdict([timed(nfkern=3, nfkern_frozen=1, eager=2), behind])
    assert verdict([alone]).endswith("nobody is ahead or behind.")


def test_rows_of_two_files_are_two_rows_and_cases_come_as_declared():
    first = [record(batch=256), record(batch=1), record(case="gone"), replace(record(), work="log_prob")]
    found = timed_rows({"one.json": first, "two.json": [record(batch=1)]})
    assert [(each.first.work, each.first.case, each.first.batch, each.file) for each in found] == [
        ("inverse", "ogbench", 1, "one.json"),
        ("inverse", "ogbench", 1, "two.json"),
        ("inverse", "ogbench", 256, "one.json"),
        ("inverse", "gone", 256, "one.json"),
        ("log_prob", "ogbench", 256, "one.json"),
    ]
    assert len({each.anchor for each in found}) == 5
    assert found[1].title == "inverse, ogbench, batch 1, 1 thread (two.json)"
