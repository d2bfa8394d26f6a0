import json
from pathlib import Path

import pytest
from evaluation_policies import StraightToGoal

from nfkern.algorithms.evaluate_command import Evaluate
from nfkern.algorithms.evaluation import EvaluationResult
from nfkern.errors import UserError


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand-ins for training runs: a checkpoint holds nothing but the policy's noise."""
    loaded: list[Path] = []

    def load_agent(checkpoint: Path) -> StraightToGoal:
        loaded.append(checkpoint)
        return StraightToGoal(noise=float((checkpoint / "agent.safetensors").read_text()))

    monkeypatch.setattr("nfkern.algorithms.agents.load_agent", load_agent)
    return loaded


def make_run(path: Path, noise: float = 0.3, seed: int = 0) -> Path:
    for step in ("00000900", "00001000"):
        (path / "checkpoints" / step).mkdir(parents=True)
        (path / "checkpoints" / step / "agent.safetensors").write_text(str(noise))
        (path / "checkpoints" / step / "config.json").write_text('{"algorithm": "nf_gcbc"}')
    config = {
        "env_name": "pointmaze-medium-navigate-v0",
        "algorithm": "nf_gcbc",
        "seed": seed,
        "config": {"batch_size": 2},
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
    assert sorted(p.name for p in (run / "evaluations").iterdir()) == ["00001000-0.json", "00001000-0.npz"]
    result = EvaluationResult.load(run / "evaluations" / "00001000-0.json")
    assert len(result.episodes) == 10

    assert short(run).run() == 0
    again = capsys.readouterr()
    assert again.out == printed
    assert "stored in" in again.err
    assert len(loaded) == 1

    assert short(run, episodes_per_task=1).run() == 0
    assert "replaces" in capsys.readouterr().err
    assert len(loaded) == 2


def test_pairs_runs_and_pools_training_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", noise=0.4, seed=1)]
    assert short(*runs, paired=True, checkpoint="900").run() == 0
    printed = capsys.readouterr().out
    assert f"{runs[0]} minus {runs[1]}, on the same starts: +0.0%" in printed
    assert "nf_gcbc on pointmaze-medium-navigate-v0, 2 training seeds: success 0.0%" in printed
    assert short(*runs, paired=True, checkpoint="900", json=True).run() == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in values["runs"]] == [str(run) for run in runs]
    assert values["paired"]["p_value"] == 1.0


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
    assert [path.name for path in (run / "evaluations").iterdir()] == ["00001000-0.json"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"checkpoint": "5"}, "no checkpoint '5'; it has 900, 1000"),
        ({"paired": True}, "--paired compares two runs, got 1"),
        ({"episodes_per_task": 0}, "episodes_per_task"),
        ({"video": Path("film.avi")}, r"ends in \.gif or \.mp4"),
    ],
)
def test_mistakes_are_explained_in_a_line(tmp_path: Path, named: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        short(make_run(tmp_path / "run"), **named).run()


def test_other_folders_are_not_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        short(tmp_path).run()
    with pytest.raises(UserError, match="at least one run"):
        short().run()
    with pytest.raises(UserError, match="--video shows a single run"):
        short(tmp_path, tmp_path, video=Path("film.gif")).run()
