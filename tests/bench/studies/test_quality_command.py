"""`nfkern bench quality`: what it measures, how it goes on after an interruption, what it refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.quality_results import results

from nfkern.bench.core import files
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.studies import records
from nfkern.bench.studies.quality import study
from nfkern.bench.studies.quality.records import TRUTH
from nfkern.bench.studies.quality.report import DEFAULT, QUICK, REPORT
from nfkern.bench.studies.quality.study import Quality
from nfkern.bench.studies.records import find
from nfkern.errors import UserError

ROOT = Path(__file__).parents[3]
TINY = {"quick": True, "densities": ("pinwheel",), "steps": 6, "parameters": 2000}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(Quality, "acting", SMOKE)
    tiny = replace(QUICK, learning_rates=DEFAULT.learning_rates, contexts=2, samples=100, pairs=100)
    monkeypatch.setitem(REPORT.presets, ("--quick",), tiny)


@pytest.mark.slow
def test_every_policy_gets_times_trials_and_scores(tmp_path, capsys):
    out, names = tmp_path / "quality.json", ("nf", "ddpm_100", "ddim_10")
    assert Quality(out, **TINY, policies=names[::-1], seeds=2).run() == 0
    found = REPORT.read(out)
    fits = [(fit.policy, fit.seed) for fit in found.fits]
    assert fits == [(name, seed) for seed in (0, 1) for name in (TRUTH, *names)]
    assert {(row.policy, row.batch) for row in found.latencies} == {(name, n) for name in names for n in (1, 256)}
    assert len(found.trials) == 2 * len(DEFAULT.learning_rates)
    for fit in found.fits:
        assert (fit.error, fit.scores.nll is None) == (None, fit.policy.startswith("dd"))
        if fit.policy != TRUTH:
            training = "nf" if fit.policy == "nf" else "diffusion"
            assert (fit.training_cpu_s > 0, fit.parameters) == (True, pytest.approx(2000, rel=0.1))
            assert fit.learning_rate == study.chosen_rate(found, "pinwheel", training)
    # DDPM and DDIM act with the same weights, and differ in how.
    ddpm, ddim = (find(found.fits, policy=name)[0] for name in names[1:])
    assert ddpm.training_cpu_s == ddim.training_cpu_s
    assert ddpm.scores != ddim.scores
    assert f"8 fits in {out}" in capsys.readouterr().out


def test_trials_are_trainings_as_long_as_the_others(tmp_path, monkeypatch):
    """With the same seed, a trial's held-out loss is that of the training which takes its learning rate."""
    monkeypatch.setattr(study, "_TRIAL_SEED", 0)
    assert Quality(tmp_path / "quality.json", **TINY, policies=("gaussian",)).run() == 0
    found = REPORT.read(tmp_path / "quality.json")
    (fit,) = find(found.fits, policy="gaussian")
    assert fit.loss == min(trial.loss for trial in found.trials)


def test_the_lowest_held_out_loss_chooses_the_learning_rate():
    found = results()
    losses = {1e-3: None, 3e-3: 1.0, 1e-2: 2.0, 3e-2: 3.0}
    found.trials = [replace(row, loss=losses[row.learning_rate]) for row in found.trials if row.training == "nf"]
    assert study.chosen_rate(found, "pinwheel", "nf") == 3e-3
    with pytest.raises(ValueError, match="no learning rate of the grid"):
        study.chosen_rate(found, "pinwheel", "mixture")
    found.forget_failures()
    assert {row.learning_rate for row in found.trials} == {3e-3, 1e-2, 3e-2}


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
    assert Quality(out, **options, overwrite=True).run() == 130
    assert "the same command without --overwrite goes on" in capsys.readouterr().out
    first = REPORT.read(out)
    assert (len(first.trials), first.fits) == (6, [])
    assert Quality(out, **options).run() == 0
    # The two trials and two trainings that were left, and the one that was interrupted: nothing twice.
    assert len(trained) == 7 + 4
    second = REPORT.read(out)
    assert (second.latencies, second.trials[:6]) == (first.latencies, first.trials)

    def timeless(path):
        return [replace(fit, training_cpu_s=0.0) for fit in REPORT.read(path).fits]

    assert timeless(out) == timeless(whole)
    assert Quality(out, **options).run() == 0
    assert REPORT.read(out) == second


def test_a_policy_that_breaks_leaves_the_others_alone(tmp_path, monkeypatch, capsys):
    out, scores = tmp_path / "quality.json", study._scores
    options = {**TINY, "policies": ("flow_matching_10", "flow_matching_1")}

    def broken(results, density, policy, *rest):
        if policy.name == "flow_matching_1":
            raise ValueError("actions: NaN")
        return scores(results, density, policy, *rest)

    monkeypatch.setattr(study, "_scores", broken)
    assert Quality(out, **options).run() == 1
    found = {fit.policy: fit.error for fit in REPORT.read(out).fits}
    assert found == {TRUTH: None, "flow_matching_10": None, "flow_matching_1": "ValueError: actions: NaN"}
    assert "failed: flow_matching_1 on pinwheel, seed 0: ValueError: actions: NaN" in capsys.readouterr().out
    monkeypatch.setattr(study, "_scores", scores)
    assert Quality(out, **options).run() == 1
    assert Quality(out, **options, retry=True).run() == 0
    # Also where a training is shared, only what failed is done again.
    assert [(fit.policy, fit.error) for fit in REPORT.read(out).fits] == [(name, None) for name in found]


def test_policies_that_cannot_run_are_skipped_with_the_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nfkern.bench.studies.policies.find_spec", lambda name: None)
    out = tmp_path / "quality.json"
    assert Quality(out, **TINY, policies=("gaussian", "spline")).run() == 0
    assert REPORT.read(out).skipped == {"spline": "needs the module zuko"}
    assert {fit.policy for fit in REPORT.read(out).fits} == {TRUTH, "gaussian"}
    assert "skipped: spline: needs the module zuko" in capsys.readouterr().out


@pytest.mark.slow
def test_results_are_never_mixed_or_replaced_silently(tmp_path):
    out, options = tmp_path / "quality.json", {**TINY, "policies": ("gaussian",)}
    Quality(out, **options).run()
    with pytest.raises(UserError, match="made with other seeds: .*--overwrite"):
        Quality(out, **options, seeds=2).run()
    found = REPORT.read(out)
    there = replace(found, environment=replace(found.environment, device_name="There"))
    records.write(out, replace(there, fits=[]))
    with pytest.raises(UserError, match="measured elsewhere"):
        Quality(out, **options).run()
    # A page of finished results may be written anywhere.
    records.write(out, there)
    assert Quality(out, **options, html=tmp_path / "page.html").run() == 0
    assert "There" in (tmp_path / "page.html").read_text()
    assert Quality(out, **options, overwrite=True).run() == 0
    assert REPORT.read(out).environment == found.environment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"densities": ("moons",)}, "--densities: expected some of checkerboard, .*, got 'moons'"),
        ({"policies": ()}, "--policies: expected at least one"),
        ({"steps": 0}, "--steps: expected at least 1, got 0"),
        ({"seeds": 0}, "--seeds: expected at least 1, got 0"),
        ({"parameters": 10}, "--parameters: nf on checkerboard: expected 10 within 10%; the nearest width, 1, has"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        Quality(tmp_path / "quality.json", **options).run()


def test_reports_that_cannot_be_written_are_refused_before_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(Quality, "pieces", lambda self, results: pytest.fail("measured"))
    with pytest.raises(UserError, match="missing.md: cannot be read"):
        Quality(tmp_path / "quality.json", tables=tmp_path / "missing.md").run()
    monkeypatch.setattr(files, "find_spec", lambda name: None if name == "jinja2" else name)
    with pytest.raises(UserError, match=r"--html needs jinja2: `pip install '?jinja2"):
        Quality(tmp_path / "quality.json", html=tmp_path / "page.html").run()


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
