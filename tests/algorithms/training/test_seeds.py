"""Several seeds in one run: each ends where a run of its own would, and leaves what it would leave."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401
from support.learners import double_precision, make_config, make_learner, states  # noqa: F401
from support.selected import exhaustive
from support.small_agents import IMITATORS, OFFLINE

from nfkern.algorithms.agents.registry import load_agent
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.learner import Learner
from nfkern.algorithms.training.offline import train
from nfkern.algorithms.training.seed_stack import SeedStack
from nfkern.cli import commands as cli
from nfkern.errors import UserError
from nfkern.flows.coupling import CouplingFlow


@pytest.mark.slow
@pytest.mark.parametrize("on_device", [False, exhaustive(True, part="learning")])
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in (*IMITATORS, *OFFLINE)), *((name, {"history": 2, "chunk": 3}) for name in IMITATORS)],
)
def test_every_seed_takes_the_path_of_a_run_of_its_own(name, options, on_device, double_precision):  # noqa: F811
    # Beyond the end of the warm-up.
    seeds, steps = (3, 0), 8
    together = Learner(*make_learner(name, seeds, on_device, torch.float64, **options))
    infos = [(together.update(), together.validate()) for _ in range(steps)]
    together.synchronise()
    for index, seed in enumerate(seeds):
        alone = Learner(*make_learner(name, [seed], on_device, torch.float64, **options))
        for step in range(steps):
            for mine, theirs in zip(infos[step], (alone.update(), alone.validate()), strict=True):
                assert set(mine) == set(theirs)
                for key, value in theirs.items():
                    torch.testing.assert_close(mine[key][index], value, rtol=1e-9, atol=1e-9)
        assert together.learning_rate == alone.learning_rate
        expected = states(alone.agents[0])
        for key, value in states(together.agents[index]).items():
            # Rounding in float64 is 1e-16; AdamW divides tiny gradients by their own size, which magnifies it.
            torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9, msg=key)
        assert together.agents[index].scheduler.state_dict().keys() == alone.agents[0].scheduler.state_dict().keys()


def test_seeds_whose_permutations_differ_do_not_run_together():
    """Seeds of an old checkpoint and of a new one: flows in one batch share what is neither parameter nor buffer."""
    agents, _ = make_learner("nf_bc", (0, 1))
    SeedStack(agents)
    flow = next(module for module in agents[1].modules() if isinstance(module, CouplingFlow))
    flow.load_state_dict(flow.state_dict() | {"permutation": flow.permutation.flip(1)})
    with pytest.raises(ValueError, match="agents: expected flows with the same permutations"):
        SeedStack(agents)


def run(data, folder, name="nf_gcbc", **options):
    steps = options.pop("steps", 40)
    settings = {"eval_episodes": 0, "log_interval": 5, "checkpoint_interval": 10, "quiet": True} | options
    config = make_config(name, steps=steps)
    return train(name, config, RunSettings(POINT_MAZE, run_dir=folder, dataset_dir=data, **settings))


def outcome(run_dir):
    """Metrics without times, and the final state."""
    with open(run_dir / "train.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
    last = sorted((run_dir / "checkpoints").iterdir())[-1]
    tensors = load_file(last / "agent.safetensors") | load_file(last / "training.safetensors")
    return rows, {name: tensor.tolist() for name, tensor in tensors.items()}, (last / "training.json").read_text()


def test_seeds_leave_what_runs_of_their_own_leave(point_maze_dir, tmp_path):  # noqa: F811
    assert run(point_maze_dir, tmp_path / "many", seeds="1,4", steps=20) == tmp_path / "many"
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["seed-1", "seed-4"]
    for seed in (1, 4):
        mine, own = tmp_path / "many" / f"seed-{seed}", run(point_maze_dir, tmp_path / "own", seed=seed, steps=20)
        files = [
            sorted(str(path.relative_to(folder)).split("events.")[0] for path in folder.rglob("*") if path.is_file())
            for folder in (mine, own)
        ]
        assert files[0] == files[1]
        assert json.loads((mine / "config.json").read_text()) == json.loads((own / "config.json").read_text())
        (rows, tensors, state), (own_rows, own_tensors, own_state) = outcome(mine), outcome(own)
        for row, expected in zip(rows, own_rows, strict=True):
            # 20 steps of float32 rounding, 6e-8 each, through products of about a hundred terms.
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert state == own_state
        # The same random streams to the last bit; weights have moved by up to 20 x 3e-4 and agree far below that.
        assert tensors["rng.cpu"] == own_tensors["rng.cpu"]
        weights, own_weights = (load_agent(sorted((f / "checkpoints").iterdir())[-1]).networks for f in (mine, own))
        for key, value in weights.state_dict().items():
            torch.testing.assert_close(value, own_weights.state_dict()[key], rtol=1e-4, atol=1e-5)
        shutil.rmtree(own)


class StopError(Exception):
    pass


def interrupted(monkeypatch, data, folder, at=27, **options):
    """Train until just before step `at`, then die."""
    with monkeypatch.context() as patch:
        update, left = Learner.update, [at]

        def dying(self):
            left[0] -= 1
            if not left[0]:
                raise StopError
            return update(self)

        patch.setattr(Learner, "update", dying)
        with pytest.raises(StopError):
            run(data, folder, **options)


# One with a single number among its weights, whose moments are single numbers like the count of steps.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "keep"), [("nf_gcbc", 1), ("nf_gcbc", 2), ("qrl", 1)])
def test_interrupted_seeds_end_where_uninterrupted_ones_do(name, keep, point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    options = {"name": name, "seeds": "0..2", "keep_checkpoints": keep}
    straight = run(point_maze_dir, tmp_path / "straight", **options)
    interrupted(monkeypatch, point_maze_dir, tmp_path / "broken", **options)
    broken = run(point_maze_dir, tmp_path / "broken", resume=True, **options)
    for seed in range(3):
        assert outcome(broken / f"seed-{seed}") == outcome(straight / f"seed-{seed}")


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [10, 20])
def test_a_kill_between_two_seeds_checkpoints_costs_nothing(killed_at, point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    straight = run(point_maze_dir, tmp_path / "straight", seeds="0,1", keep_checkpoints=1)
    save = Run.save_checkpoint

    def dying(self, step, *args):
        if step == killed_at and self.path.name == "seed-1":
            raise StopError
        return save(self, step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", dying)
        with pytest.raises(StopError):
            run(point_maze_dir, tmp_path / "broken", seeds="0,1", keep_checkpoints=1)
    newest = [max(p.name for p in (tmp_path / "broken" / "seed-0" / "checkpoints").iterdir())]
    assert newest == [f"{killed_at:08d}"]
    broken = run(point_maze_dir, tmp_path / "broken", seeds="0,1", keep_checkpoints=1, resume=True)
    for seed in range(2):
        assert outcome(broken / f"seed-{seed}") == outcome(straight / f"seed-{seed}")


def test_a_seed_can_go_on_by_itself(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    interrupted(monkeypatch, point_maze_dir, tmp_path / "many", seeds="0,1")
    alone = outcome(run(point_maze_dir, tmp_path / "many" / "seed-1", seed=1, resume=True))
    straight = outcome(run(point_maze_dir, tmp_path / "own", seed=1))
    assert alone[1]["rng.cpu"] == straight[1]["rng.cpu"]
    for row, expected in zip(alone[0], straight[0], strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.raises(UserError, match=r"different steps \(seed-0 at 20, seed-1 at 40\): continue them one by one"):
        run(point_maze_dir, tmp_path / "many", seeds="0,1", resume=True)


def test_new_seeds_never_restart_old_ones(point_maze_dir, tmp_path):  # noqa: F811
    run(point_maze_dir, tmp_path / "many", seeds="0,1", steps=10)
    before = outcome(tmp_path / "many" / "seed-0")
    with pytest.raises(UserError, match="different steps"):
        run(point_maze_dir, tmp_path / "many", seeds="0..2", steps=10, resume=True)
    assert outcome(tmp_path / "many" / "seed-0") == before
    assert not (tmp_path / "many" / "seed-2").exists()


def test_all_folders_are_claimed_or_none(point_maze_dir, tmp_path):  # noqa: F811
    run(point_maze_dir, tmp_path / "many", seeds="1,2", steps=5)
    with pytest.raises(UserError, match="seed-1 already holds a run"):
        run(point_maze_dir, tmp_path / "many", seeds="0..1", steps=5)
    assert not (tmp_path / "many" / "seed-0").exists()


def test_the_command_prints_every_run(point_maze_dir, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    args = ["train", "gaussian_bc", "--env-name", POINT_MAZE, "--dataset-dir", str(point_maze_dir), "--steps", "3"]
    args += ["--hidden", "8", "--batch-size", "8", "--eval-episodes", "0", "--quiet"]
    assert cli.main([*args, "--seeds", "2..3"]) == 0
    folders = [f"runs/gaussian_bc/{POINT_MAZE}/seed-{seed}" for seed in (2, 3)]
    assert capsys.readouterr().out.split() == folders
    assert all((tmp_path / folder / "checkpoints" / "00000003").is_dir() for folder in folders)
    assert cli.main([*args, "--seeds", "2..3", "--seed", "0"]) == 2
    assert "--seeds and --seed are not allowed together" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["", "3..1", "1..", "1,1", "0,a", "-1", "1, 2", "0...3"])
def test_bad_seeds_are_named(seeds):
    with pytest.raises(ValueError, match="seeds: expected FIRST..LAST or different seeds with commas, got"):
        RunSettings(POINT_MAZE, seeds=seeds)


def test_settings_that_exclude_each_other():
    with pytest.raises(ValueError, match="seeds: expected seed or seeds, got both"):
        RunSettings(POINT_MAZE, seed=1, seeds="0..3")
    with pytest.raises(ValueError, match="tracks one run at a time"):
        RunSettings(POINT_MAZE, track=True, seeds="0..3")
    assert RunSettings(POINT_MAZE, seeds="0..3").all_seeds() == (0, 1, 2, 3)
    assert RunSettings(POINT_MAZE, seeds="5,0").all_seeds() == (5, 0)
