"""`nfkern bench quality`: what it measures, how it goes on after an interruption, what it refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nfkern.bench.core.timing import SMOKE
from nfkern.bench.studies import records
from nfkern.bench.studies import report as reports
from nfkern.bench.studies.quality import study
from nfkern.bench.studies.quality.commands import Quality
from nfkern.bench.studies.quality.metrics import HeldOut, score
from nfkern.bench.studies.quality.records import TRUTH
from nfkern.bench.studies.quality.report import DEFAULT, QUICK, REPORT
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.errors import UserError

ROOT = Path(__file__).parents[3]
TINY = {"quick": True, "densities": ("pinwheel",), "steps": 6, "parameters": 2000}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(study, "ACTING", SMOKE)
    tiny = replace(QUICK, learning_rates=DEFAULT.learning_rates, contexts=2, samples=100, pairs=100)
    monkeypatch.setitem(REPORT.presets, ("--quick",), tiny)


@pytest.mark.slow
def test_every_policy_gets_times_trials_and_scores(tmp_path, capsys):
    out = tmp_path / "quality.json"
    assert Quality(out, **TINY, policies=("nf", "ddim_10", "ddpm_100"), seeds=2).run() == 0
    found = REPORT.read(out)
    assert [(fit.policy, fit.seed) for fit in found.fits] == [
        (name, seed) for seed in (0, 1) for name in (TRUTH, "nf", "ddpm_100", "ddim_10")
    ]
    assert {(row.policy, row.batch) for row in found.latencies} == {
        (name, batch) for name in ("nf", "ddpm_100", "ddim_10") for batch in (1, 256)
    }
    assert len(found.trials) == 2 * len(DEFAULT.learning_rates)
    for fit in found.fits:
        assert fit.error is None
        assert (fit.scores.nll is None) == fit.policy.startswith("dd")
        if fit.policy != TRUTH:
            assert (fit.training_cpu_s > 0, fit.parameters) == (True, pytest.approx(2000, rel=0.1))
            assert fit.learning_rate == study.chosen_rate(
                found, "pinwheel", "nf" if fit.policy == "nf" else "diffusion"
            )
    # DDPM and DDIM act with the same weights, and differ in how.
    ddpm, ddim = (next(fit for fit in found.fits if fit.policy == name) for name in ("ddpm_100", "ddim_10"))
    assert ddpm.training_cpu_s == ddim.training_cpu_s
    assert ddpm.scores != ddim.scores
    assert f"8 fits in {out}" in capsys.readouterr().out


def test_trials_are_trainings_as_long_as_the_others(tmp_path, monkeypatch):
    """With the same seed, a trial's held-out loss is that of the training which takes its learning rate."""
    monkeypatch.setattr(study, "_TRIAL_SEED", 0)
    assert Quality(tmp_path / "quality.json", **TINY, policies=("gaussian",)).run() == 0
    found = REPORT.read(tmp_path / "quality.json")
    (fit,) = (fit for fit in found.fits if fit.policy == "gaussian")
    assert fit.loss == min(trial.loss for trial in found.trials)


@pytest.mark.slow
def test_an_interrupted_study_goes_on_to_the_same_results(tmp_path, monkeypatch, capsys):
    options = {**TINY, "policies": ("gaussian", "flow_matching_1")}
    whole, out = tmp_path / "whole.json", tmp_path / "quality.json"
    Quality(whole, **options).run()
    train, trained = study.train, []

    def interrupted(*arguments):
        trained.append(arguments)
        if len(trained) == 7:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(study, "train", interrupted)
    assert Quality(out, **options).run() == 130
    assert "the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(study, "train", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    assert Quality(tmp_path / "other.json", **options, overwrite=True).run() == 130
    assert "the same command without --overwrite goes on" in capsys.readouterr().out
    monkeypatch.setattr(study, "train", interrupted)
    first = REPORT.read(out)
    assert (len(first.trials), first.fits) == (6, [])
    assert Quality(out, **options).run() == 0
    # The two trials and two trainings that were left, and the one that was interrupted: nothing twice.
    assert len(trained) == 7 + 4
    second = REPORT.read(out)
    assert second.latencies == first.latencies
    assert second.trials[:6] == first.trials

    def timeless(path):
        return [replace(fit, training_cpu_s=0.0) for fit in REPORT.read(path).fits]

    assert timeless(out) == timeless(whole)
    assert Quality(out, **options).run() == 0
    assert REPORT.read(out) == second


def test_a_policy_that_breaks_leaves_the_others_alone(tmp_path, monkeypatch, capsys):
    out, score_all = tmp_path / "quality.json", study.score

    def broken(density, held_out, sample, log_prob=None):
        if log_prob is None:
            return score_all(density, held_out, lambda contexts: sample(contexts) * torch.nan)
        return score_all(density, held_out, sample, log_prob)

    monkeypatch.setattr(study, "score", broken)
    assert Quality(out, **TINY, policies=("gaussian", "flow_matching_1")).run() == 1
    found = {fit.policy: fit.error for fit in REPORT.read(out).fits}
    reason = "ValueError: actions: expected finite numbers, got NaN or infinity"
    assert found == {TRUTH: None, "gaussian": None, "flow_matching_1": reason}
    assert f"failed: flow_matching_1 on pinwheel, seed 0: {reason}" in capsys.readouterr().out
    monkeypatch.setattr(study, "score", score_all)
    assert Quality(out, **TINY, policies=("gaussian", "flow_matching_1")).run() == 1
    assert Quality(out, **TINY, policies=("gaussian", "flow_matching_1"), retry=True).run() == 0
    again = {fit.policy: fit for fit in REPORT.read(out).fits}
    assert again["flow_matching_1"].error is None
    assert again.keys() == found.keys()


def test_the_lowest_held_out_loss_chooses_the_learning_rate(tmp_path):
    out = tmp_path / "quality.json"
    Quality(out, **TINY, policies=("gaussian",)).run()
    found = REPORT.read(out)
    found.trials = [
        replace(row, loss={1e-3: None, 3e-3: 1.0, 1e-2: 2.0, 3e-2: 3.0}[row.learning_rate]) for row in found.trials
    ]
    assert study.chosen_rate(found, "pinwheel", "gaussian") == 3e-3
    found.trials = [replace(row, loss=None) for row in found.trials]
    with pytest.raises(ValueError, match="no learning rate of the grid"):
        study.chosen_rate(found, "pinwheel", "gaussian")


def test_policies_that_cannot_run_are_skipped_with_the_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nfkern.bench.studies.policies.find_spec", lambda name: None)
    out = tmp_path / "quality.json"
    assert Quality(out, **TINY, policies=("gaussian", "spline")).run() == 0
    assert REPORT.read(out).skipped == {"spline": "needs the module zuko"}
    assert {fit.policy for fit in REPORT.read(out).fits} == {TRUTH, "gaussian"}
    assert "skipped: spline: needs the module zuko" in capsys.readouterr().out


@pytest.mark.slow
def test_results_are_never_mixed_or_replaced_silently(tmp_path, monkeypatch):
    out = tmp_path / "quality.json"
    options = {**TINY, "policies": ("gaussian",)}
    Quality(out, **options).run()
    with pytest.raises(UserError, match="made with other seeds: .*--overwrite"):
        Quality(out, **options, seeds=2).run()
    found = REPORT.read(out)
    records.write(out, replace(found, fits=[], environment=replace(found.environment, device_name="There")))
    with pytest.raises(UserError, match="measured elsewhere"):
        Quality(out, **options).run()
    assert Quality(out, **options, overwrite=True).run() == 0
    # A page of finished results may be written anywhere.
    records.write(out, replace(REPORT.read(out), environment=replace(found.environment, device_name="There")))
    assert Quality(out, **options, html=tmp_path / "page.html").run() == 0
    assert "There" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"densities": ("moons",)}, "--densities: expected some of checkerboard, .*, got 'moons'"),
        ({"policies": ("nf", "gan")}, "--policies: expected some of nf, .*, got 'gan'"),
        ({"policies": ()}, "--policies: expected at least one"),
        ({"steps": 0}, "--steps: expected at least 1, got 0"),
        ({"seeds": 0}, "--seeds: expected at least 1, got 0"),
        ({"parameters": 0}, "--parameters: expected at least 1, got 0"),
        ({"parameters": 10}, "--parameters: nf on checkerboard: expected 10 within 10%; the nearest width, 1, has"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        Quality(tmp_path / "quality.json", **options).run()


def test_reports_that_cannot_be_written_are_refused_before_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "pieces", lambda results: pytest.fail("measured"))
    with pytest.raises(UserError, match="missing.md: cannot be read"):
        Quality(tmp_path / "quality.json", tables=tmp_path / "missing.md").run()
    for missing in reports.PAGE_NEEDS:
        monkeypatch.setattr(reports, "find_spec", lambda name, missing=missing: None if name == missing else name)
        with pytest.raises(UserError, match=rf"needs the package {missing}: `pip install 'nfkern\[bench\]'`"):
            Quality(tmp_path / "quality.json", html=tmp_path / "page.html").run()


def test_the_density_itself_scores_as_well_as_can_be_and_a_wrong_one_worse():
    density, settings = DENSITIES["gaussians_25"], replace(DEFAULT, contexts=2)
    held_out, generator = HeldOut.of(density, settings), torch.Generator().manual_seed(1)
    best = score(density, held_out, lambda contexts: density.sample(contexts, generator), density.log_prob)
    turned = score(density, held_out, lambda contexts: density.sample(contexts.flip(1), generator))
    assert (best.covered, turned.nll) == (1.0, None)
    assert best.off_modes < 0.02 < turned.off_modes
    assert best.sliced_wasserstein < 0.5 * turned.sliced_wasserstein
    assert best.mmd < 0.5 * turned.mmd
    assert best.nll == pytest.approx(-float(density.log_prob(held_out.pairs, held_out.pair_contexts).mean()))


@pytest.mark.exhaustive(part="commands")
def test_the_command_of_all_policies_survives_control_c(tmp_path):
    out = tmp_path / "quality.json"
    options = ["bench", "quality", "--out", str(out), "--quick", "--steps", "6", "--parameters", "6000"]
    options += ["--densities", "chunk", "pinwheel"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    command = [sys.executable, "-m", "support.interrupted", "8", "*/.quality.json.*", *options]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (stopped.returncode, "the same command goes on" in stopped.stdout) == (130, True), stopped.stderr
    assert REPORT.read(out).trials
    command = [sys.executable, "-m", "nfkern", *options, "--html", str(tmp_path / "q.html")]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {fit.policy for fit in REPORT.read(out).fits} == {TRUTH, *DEFAULT.policies}
    assert '<svg class="chart"' in (tmp_path / "q.html").read_text()
