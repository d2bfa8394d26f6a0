import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.evaluation_policies import StraightToGoal

from nfkern.algorithms.commands.evaluate import Evaluate
from nfkern.algorithms.evaluation.evaluate import EvaluationResult
from nfkern.algorithms.evaluation.statistics import paired_comparison, success_interval
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand-ins for training runs: a checkpoint holds nothing but the policy's noise."""
    loaded: list[Path] = []

    def load_policy(checkpoint: Path) -> StraightToGoal:
        loaded.append(checkpoint)
        return StraightToGoal(noise=float((checkpoint / "agent.safetensors").read_text()))

    monkeypatch.setattr("nfkern.algorithms.commands.evaluate.load_policy", load_policy)
    return loaded


def make_run(
    path: Path,
    noise: float = 0.3,
    *,
    seed: int = 0,
    batch_size: int = 2,
    env_name: str = "pointmaze-medium-navigate-v0",
    dataset: str = "digest",
) -> Path:
    for step in ("00000900", "00001000"):
        (path / "checkpoints" / step).mkdir(parents=True)
        (path / "checkpoints" / step / "agent.safetensors").write_text(str(noise))
        (path / "checkpoints" / step / "config.json").write_text('{"algorithm": "nf_gcbc"}')
    config = {
        "env_name": env_name,
        "algorithm": "nf_gcbc",
        "seed": seed,
        "dataset": dataset,
        "config": {"batch_size": batch_size},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def short(*runs: Path, **named: object) -> Evaluate:
    return Evaluate(tuple(runs), **{"episodes_per_task": 2, "max_episode_steps": 30} | named)  # type: ignore[arg-type]


def test_prints_a_row_per_goal_and_stores_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loaded: list[Path]
) -> None:
    run = make_run(tmp_path / "run")
    assert short(run, trajectories=True).run() == 0
    printed = capsys.readouterr().out
    assert "step 00001000: pointmaze-medium-navigate-v0, 2 episodes per goal" in printed
    assert printed.count("0/2") == 5
    assert printed.count("0.0 - 65.8") == 5, "Wilson's interval of 0 in 2"
    assert printed.count("0.0 - 43.4") == 1, "and of 0 in 5 goals"
    files = sorted((run / "evaluations").iterdir())
    assert [re.sub("[0-9a-f]{8}[.]", ".", path.name) for path in files] == ["00001000-0-.json", "00001000-0-.npz"]
    assert files[0].stem == files[1].stem
    assert len(EvaluationResult.load(files[0]).episodes) == 10

    assert short(run).run() == 0
    again = capsys.readouterr()
    assert again.out == printed
    assert "stored in" in again.err
    assert len(loaded) == 1

    # A shorter one takes the place of nothing.
    before = files[0].read_text()
    assert short(run, episodes_per_task=1).run() == 0
    assert len(loaded) == 2
    assert files[0].read_text() == before
    assert len(list((run / "evaluations").glob("*.json"))) == 2


def test_pairs_runs_and_pools_training_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", noise=0.4, seed=1)]
    assert short(*runs, paired=True, checkpoint="900").run() == 0
    printed = capsys.readouterr().out
    assert f"{runs[0]} minus {runs[1]}, on the same starts: +0.0%" in printed
    assert "nf_gcbc on pointmaze-medium-navigate-v0, 2 training seeds: success 0.0%" in printed
    assert short(*runs, paired=True, checkpoint="900", json=True).run() == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in values["runs"]] == [str(run) for run in runs]
    assert values["training_seeds"][0]["runs"] == [str(run) for run in runs]
    assert values["paired"][0]["p_value"] == 1.0


@pytest.mark.slow
def test_pairs_algorithms_with_their_training_seeds_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = [make_run(tmp_path / f"straight-{seed}", seed=seed) for seed in (0, 1)]
    noisy = [make_run(tmp_path / f"noisy-{seed}", noise=1.5, seed=seed, batch_size=4) for seed in (1, 0)]
    options = {"paired": True, "max_episode_steps": 200, "episodes_per_task": 3}
    assert short(*straight, *noisy, **options).run() == 0
    printed = capsys.readouterr().out
    assert f"nf_gcbc ({straight[0]} to {straight[1]}) minus nf_gcbc ({noisy[1]} to {noisy[0]})" in printed
    assert "(seeds and goals resampled)" in printed
    assert "two policies" not in printed
    assert short(*straight, *noisy, **options, json=True).run() == 0
    values = json.loads(capsys.readouterr().out)
    outcomes = {str(run): Run(run).evaluations.find(1000, seed=0)[1].outcomes for run in (*straight, *noisy)}
    (pair,) = values["paired"]
    first, second = (np.stack([outcomes[run] for run in pair[side]]) for side in ("first", "second"))
    assert pair["second"] == [str(run) for run in reversed(noisy)], "in the order of their seeds"
    assert pair["difference"] == pytest.approx(first.mean() - second.mean())
    expected = paired_comparison(first, second).interval
    assert pair["interval"] == pytest.approx(expected._asdict())
    pools = {tuple(pool["runs"]): pool for pool in values["training_seeds"]}
    pool = pools[tuple(pair["first"])]
    assert list(pool["by_task"].values()) == pytest.approx(first.mean((0, 2)).tolist())
    assert pool["interval"] == pytest.approx(success_interval(first)._asdict())


def test_what_cannot_be_paired_is_said_before_anything_is_evaluated(tmp_path: Path, loaded: list[Path]) -> None:
    runs = [make_run(tmp_path / str(seed), seed=seed) for seed in range(3)]
    with pytest.raises(UserError, match="--paired: expected two algorithms on one environment, got nf_gcbc"):
        short(*runs, paired=True).run()
    other = make_run(tmp_path / "other", batch_size=4)
    with pytest.raises(UserError, match="as many training seeds of each algorithm, got nf_gcbc .* and .*other"):
        short(*runs, other, paired=True).run()
    elsewhere = make_run(tmp_path / "elsewhere", env_name="pointmaze-large-navigate-v0")
    with pytest.raises(UserError, match="one environment, got .* on pointmaze-medium.*elsewhere on pointmaze-large"):
        short(runs[0], elsewhere, paired=True).run()
    assert not loaded


def test_runs_on_other_data_are_no_training_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / str(seed), seed=seed, dataset=f"digest {seed}") for seed in (0, 1)]
    assert short(*runs).run() == 0
    assert "training seeds: success" not in capsys.readouterr().out


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    act, decisions = StraightToGoal.act, 0

    def interrupted(self: StraightToGoal, *arguments: object, **named: object) -> object:
        nonlocal decisions
        decisions += 1
        if decisions == 70:
            raise KeyboardInterrupt
        return act(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(StraightToGoal, "act", interrupted)
    assert short(run).run() == 130
    assert "same command goes on" in capsys.readouterr().err
    assert len(list((run / "evaluations").glob("*.progress.jsonl"))) == 1
    assert short(run).run() == 0
    assert decisions == 70 + 3 * 30, "two of five goals were finished before the interrupt"
    (path,) = (run / "evaluations").iterdir()
    assert path.suffix == ".json"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"checkpoint": "5"}, "no checkpoint '5'; it has 900, 1000"),
        ({"paired": True}, "--paired compares two runs or more, got 1"),
        ({"episodes_per_task": 0}, "episodes_per_task"),
        ({"video": Path("film.avi")}, r"ends in \.gif or \.mp4"),
    ],
)
def test_mistakes_are_explained_in_a_line(tmp_path: Path, named: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        short(make_run(tmp_path / "run"), **named).run()


def test_every_runs_environment_is_known_before_the_first_is_evaluated(tmp_path: Path, loaded: list[Path]) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", env_name="mine")]
    with pytest.raises(UserError, match="b: unknown dataset or environment 'mine'.*--eval-env names"):
        short(*runs).run()
    assert not loaded
    assert not (runs[0] / "evaluations").exists()


def test_other_folders_are_not_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run: expected a folder with config.json"):
        short(tmp_path).run()
    with pytest.raises(UserError, match="at least one run"):
        short().run()
    with pytest.raises(UserError, match="--video shows a single run"):
        short(tmp_path, tmp_path, video=Path("film.gif")).run()
