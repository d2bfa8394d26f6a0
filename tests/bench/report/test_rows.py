"""The verdict of a row, and the sentence about all of them."""

import time
from dataclasses import replace

import pytest
from support.bench_records import record, refused, spread
from support.bench_rows import row, timed

from nfkern.bench import commands, suites
from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark, Implementation
from nfkern.bench.core.timing import quantiles
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.rows import timed_rows, verdict

RUNS = (("nf_gcbc", 8.0), ("gaussian_gcbc", 3.0), ("diffusion_gcbc", 9.0))


@pytest.mark.parametrize(
    ("ours", "peer", "word"),
    [(1.0, 2.0, "ahead"), (1.0, 1.06, "ahead"), (1.0, 1.04, "even"), (1.01, 1.0, "even"), (1.04, 1.0, "behind")],
)
def test_a_row_is_ahead_even_or_behind(ours, peer, word):
    found = timed(nfkern=ours, eager=peer)
    assert found.word == word
    assert found.ratio == pytest.approx(peer / ours)


def test_noise_makes_even_what_the_medians_do_not():
    noisy = row(record("nfkern", spread(1e-3, 0.4)), record("eager", spread(1.3e-3, 0.4)))
    assert noisy.word == "even"
    assert row(noisy.records[1], replace(noisy.records[0], variant="eager_compile")).word == "alone"


def slow(run):
    def slower(*inputs):
        time.sleep(5e-3)
        return run(*inputs)

    return slower


def remembering(run):
    known = {}

    def faster(*inputs):
        if id(inputs[0]) not in known:
            known[id(inputs[0])] = run(*inputs)
        return known[id(inputs[0])]

    return faster


@pytest.mark.parametrize(("changed", "word"), [(slow, "ahead"), (remembering, "behind")])
def test_another_baseline_is_another_verdict(tmp_path, monkeypatch, capsys, changed, word):
    eager = VARIANTS["eager"]

    def build(problem):
        return Implementation(changed(eager.builders["log_prob"](problem).run))

    suite = (Benchmark("log_prob", ("tiny",), (4,), ("eager", "nfkern"), threads=("one",)),)
    monkeypatch.setitem(suites.SUITES, "smoke", suite)
    monkeypatch.setitem(VARIANTS, "eager", replace(eager, builders={"log_prob": build}))
    out = tmp_path / "records.jsonl"
    assert commands.Run(out, "smoke", page=False).run() == 0
    assert [each.word for each in timed_rows({"": storage.read(out)})] == [word]
    assert f"{word:6} log_prob-tiny-4-threads_1: nfkern " in capsys.readouterr().out


def test_the_best_are_of_one_precision_and_floors_are_no_peers():
    found = timed(eager=9, jax_jit=4, nfkern=5, nfkern_frozen=3, nfkern_frozen_bf16=2, gemm=1, gemm_bf16=0.5, zuko=2.5)
    assert (found.ours.variant, found.peer.variant) == ("nfkern_frozen", "jax_jit")
    assert found.ours_coarser.variant == "nfkern_frozen_bf16"
    assert found.floor.variant == "gemm"
    assert [each.variant for each in found.other_functions_ahead] == ["zuko"]
    # In bf16 it would be ahead: that does not count against a peer in fp32.
    assert timed(jax_jit=4, nfkern=5, nfkern_frozen_bf16=2).word == "behind"
    assert timed(nfkern=1, gemm=0.5).word == "alone"


def test_results_to_a_tolerance_are_no_lead():
    found = timed(eager=9, nfkern=5, nfkern_tables=1)
    assert (found.ours.variant, found.ours_coarser.variant, round(found.ratio, 6)) == ("nfkern", "nfkern_tables", 1.8)
    assert found.other_functions_ahead == []


def test_of_a_single_call_nobody_is_ahead():
    found = row(record("nfkern", quantiles([1.0])), record("eager", quantiles([2.0])))
    assert found.word == "even"


def test_the_verdict_counts_rows_that_have_both():
    ahead, behind, even = timed(nfkern=1, eager=2), timed(nfkern=2, eager=1), timed(nfkern=1, jax_jit=1)
    failed, alone = row(record("eager"), refused("nfkern")), timed(nfkern=1, gemm=1)
    assert verdict([ahead, behind, even, failed, alone]) == (
        "nfkern at its fastest is ahead of the best peer in 1 of 3 rows, even in 1 and behind in 1."
    )
    assert "slower than that peer in 1 more." in verdict([timed(nfkern=3, nfkern_frozen=1, eager=2), behind])
    assert verdict([alone]).endswith("nobody is ahead or behind.")


def test_where_nothing_does_the_same_job_nobody_is_ahead():
    runs = row(*(record(name, spread(seconds), work="goal_conditioned_run", parameters=7) for name, seconds in RUNS))
    assert (runs.word, runs.best.variant) == ("alone", "nf_gcbc")
    assert [each.variant for each in runs.other_functions_ahead] == ["gaussian_gcbc"]


def test_rows_of_two_files_are_two_rows():
    found = timed_rows({"one.json": [record(batch=256), record(batch=1)], "two.json": [record(batch=1)]})
    assert [(each.first.batch, each.file) for each in found] == [(1, "one.json"), (1, "two.json"), (256, "one.json")]
    assert len({each.anchor for each in found}) == 3
    assert found[1].title == "inverse, ogbench, batch 1, 1 thread (two.json)"


def test_what_nobody_would_choose_is_no_peer():
    found = timed(nfkern=1, row_loop=0.5)
    assert (found.peer, found.word, found.other_functions_ahead) == (None, "alone", [])


def test_the_best_variant_is_of_the_peers_precision():
    assert timed(nfkern_frozen=3, nfkern_frozen_bf16=2, jax_jit=4).best.variant == "nfkern_frozen"


def test_a_frozen_lead_does_not_hide_that_the_call_is_behind():
    found = timed(nfkern=3, nfkern_frozen=1, eager=2)
    assert (found.word, found.called_behind.variant) == ("ahead", "nfkern")
    assert timed(nfkern=1.9, nfkern_frozen=1, eager=2).called_behind is None
    medians = {"nfkern": 2.2, "nfkern_frozen": 1, "eager": 2}
    within_noise = row(*(record(name, spread(median, 0.4)) for name, median in medians.items()))
    assert within_noise.called_behind.variant == "nfkern"
