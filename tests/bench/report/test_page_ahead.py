"""What the page says about who is ahead."""

import re
import time
from dataclasses import replace

import pytest
from support.bench_records import ENVIRONMENT, record, refused, spread
from support.bench_rows import row, timed

from nfkern.bench import commands, suites
from nfkern.bench.core.declarations import Benchmark, Implementation
from nfkern.bench.core.timing import quantiles
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.page import details, overview

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
def test_another_baseline_is_another_verdict(tmp_path, monkeypatch, changed, word):
    eager = VARIANTS["eager"]

    def build(problem):
        return Implementation(changed(eager.builders["log_prob"](problem).run))

    suite = (Benchmark("log_prob", ("tiny",), (4,), ("eager", "nfkern"), threads=("one",)),)
    monkeypatch.setitem(suites.SUITES, "smoke", suite)
    monkeypatch.setitem(VARIANTS, "eager", replace(eager, builders={"log_prob": build}))
    out, page = tmp_path / "records.jsonl", tmp_path / "page.html"
    assert commands.Run(out, "smoke").run() == 0
    assert commands.Report((out,), page).run() == 0
    assert f'<tr class="{word}" data-row="log_prob-tiny-4-threads_1"' in page.read_text()


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
    assert "1.00 ms <small>nfkern_tables</small>" in overview.overview([found])


def test_of_a_single_call_nobody_is_ahead():
    found = row(record("nfkern", quantiles([1.0])), record("eager", quantiles([2.0])))
    assert found.word == "even"
    assert overview.losses([found]).count("unknown</td>") == 2


def test_rows_are_found_by_their_file_in_any_case():
    several = replace(timed(eager=1, nfkern=1), several=True, file="Zen4.json")
    assert ' zen4.json"' in overview.overview([several])


def test_losses_say_over_how_many_rows():
    ahead = timed(nfkern=1, eager=2)
    html = overview.losses([ahead, timed(nfkern=1, gemm=1)])
    assert "Of 2 rows 1 have both" in html
    assert "In none of 1 rows is a peer faster by more than the noise." in html
    assert "No variant was refused a number in 2 rows." in html
    assert "2 rows lack variants of their suite" in html
    behind = timed(nfkern=2, eager=1, zuko=1.5)
    even = timed(nfkern=1, jax_jit=1)
    failed = row(record("eager"), refused("nfkern", "<wrong>"))
    html = overview.losses([ahead, behind, even, failed])
    assert "ahead in 1, even in 1 and behind in 1" in html
    parts = dict(zip(re.findall(r"<h3>(.*?)</h3>", html), re.split(r"<h3>.*?</h3>", html)[1:], strict=True))
    assert "2.00 ms <small>nfkern</small>" in parts["Behind a peer"]
    assert "1.00 ms <small>jax_jit</small>" in parts["Even"]
    assert "Nowhere else" in parts["Behind a peer as a user calls it"]
    assert "&lt;wrong&gt;" in parts["Refused"]
    assert "same size, not the same function" in parts["Faster, but another function"]


def test_where_nothing_does_the_same_job_nobody_is_ahead():
    runs = row(*(record(name, spread(seconds), work="goal_conditioned_run", parameters=7) for name, seconds in RUNS))
    html = overview.losses([runs])
    assert "None of these rows has both a peer" in html
    assert "ahead in" not in html
    slower = html.split("<h3>Faster, but another function</h3>")[1]
    assert "gaussian_gcbc" in slower
    assert "diffusion_gcbc" not in slower
    section = details.details([runs], {str(ENVIRONMENT): 1})
    assert "<small>8.00 s, nf_gcbc</small>" in section
    assert '<td data-value="25">25.0</td>' in section
    best = [line for line in section.splitlines() if 'class="best"' in line]
    assert len(best) == 1
    assert "<td>nf_gcbc" in best[0]


def test_rows_against_eager_pytorch_alone_are_counted():
    tuned, untuned = timed(nfkern=1, eager=3, jax_jit=2), timed(nfkern=1, eager=3, eager_plu_once=2, gemm=1)
    assert "In 1 of them eager PyTorch is all" in overview.losses([tuned, untuned])
    assert "eager PyTorch is all" not in overview.losses([tuned])


def test_what_nobody_would_choose_is_no_peer():
    found = timed(nfkern=1, row_loop=0.5)
    assert (found.peer, found.word, found.other_functions_ahead) == (None, "alone", [])
    assert "row_loop <i>(the same results, as one would first write it)</i>" in details.details(
        [found], {str(ENVIRONMENT): 1}
    )


def test_the_bold_variant_is_of_the_peers_precision():
    found = timed(nfkern_frozen=3, nfkern_frozen_bf16=2, jax_jit=4)
    assert found.best.variant == "nfkern_frozen"
    assert "<small>3.00 ms at best</small>" in details.details([found], {str(ENVIRONMENT): 1})


def test_a_frozen_lead_does_not_hide_that_the_call_is_behind():
    found = timed(nfkern=3, nfkern_frozen=1, eager=2)
    assert (found.word, found.called_behind.variant) == ("ahead", "nfkern")
    html = overview.losses([found])
    assert re.search("as a user calls it</h3>.*3.00 ms.*2.00 ms.*0.67.*<h3>Even", html, re.DOTALL)
    assert timed(nfkern=1.9, nfkern_frozen=1, eager=2).called_behind is None
    medians = {"nfkern": 2.2, "nfkern_frozen": 1, "eager": 2}
    within_noise = row(*(record(name, spread(median, 0.4)) for name, median in medians.items()))
    assert within_noise.called_behind.variant == "nfkern"
