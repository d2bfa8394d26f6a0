"""Errors come before the first step; runs can continue for more steps, and start from other weights."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.boxes import FollowInParts, register, save, scripted
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training import offline as training
from nfkern.algorithms.training.learner import Learner
from nfkern.algorithms.training.offline import train
from nfkern.cli import commands as cli
from nfkern.errors import UserError

NETWORKS = {"blocks": 2, "hidden": (8, 8), "representation": 4, "encoder_width": 8, "batch_size": 16}
QUIET = {"eval_episodes": 0, "checkpoint_interval": 10, "quiet": True}


def run(data, folder, algorithm="nf_gcbc", *, steps=20, config=None, **options):
    config = AGENTS[algorithm].config_class(**NETWORKS | (config or {}), steps=steps)
    settings = RunSettings(**{"env_name": POINT_MAZE, "run_dir": folder, "dataset_dir": data} | QUIET | options)
    return train(algorithm, config, settings)


def weights(run_dir, step):
    return load_file(run_dir / "checkpoints" / f"{step:08d}" / "agent.safetensors")


def rows(run_dir):
    with open(run_dir / "train.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    return save(scripted("unit", episodes=20), tmp_path_factory.mktemp("own") / "mine.npz")


def command(data, folder, *flags):
    small = ["--blocks", "2", "--hidden", "8", "8", "--representation", "4", "--encoder-width", "8"]
    small += ["--batch-size", "16", "--steps", "2"]
    return ["train", "nf_bc", "--env-name", str(data), "--run-dir", str(folder), *small, *flags]


def test_data_without_an_environment_train_and_say_so_at_the_start(own_data, tmp_path, capsys):
    assert cli.main(command(own_data, tmp_path / "run")) == 0
    said = capsys.readouterr()
    assert "evaluation: none, for mine is no environment's name (--eval-env ID names one)" in said.err
    assert said.out.strip() == str(tmp_path / "run")
    assert not (tmp_path / "run" / "evaluations").exists()


def test_own_data_are_validated_on_a_file_beside_them_or_not_at_all(own_data, tmp_path, capsys):
    """A loss on the data that were learned from would pass for a validation."""
    data = Path(shutil.copy(own_data, tmp_path))
    assert cli.main(command(data, tmp_path / "run")) == 0
    assert "; no validation, for there is no mine-val.npz beside it\n" in capsys.readouterr().err
    for row in rows(tmp_path / "run"):
        assert not [name for name in row if name.startswith("validation")]
        assert row["training/learning_rate"]
    save(scripted("unit", episodes=3, seed=1), tmp_path / "mine-val.npz")
    assert len(TransitionDataset.load(data, split="val")) < len(TransitionDataset.load(data)) / 6
    assert cli.main([*command(data, tmp_path / "run", "--resume"), "--steps", "4"]) == 0
    assert "no validation" not in capsys.readouterr().err
    *_, before, after, last = rows(tmp_path / "run")
    assert before["validation/actor/loss"] == ""
    for row in (after, last):
        assert row["validation/actor/loss"] not in ("", row["training/actor/loss"])


def test_own_data_are_evaluated_in_the_environment_that_is_named(own_data, tmp_path, capsys):
    flags = ["--eval-env", f"support.boxes:{register('unit')}", "--eval-episodes", "2"]
    assert cli.main(command(own_data, tmp_path / "run", *flags)) == 0
    said = capsys.readouterr().err
    assert "evaluation: 2 episodes in support.boxes:FollowInUnit-v0, every 2 steps" in said
    assert f"{tmp_path / 'run'}: success 0.0%, return -" in said
    assert Run(tmp_path / "run").evaluated_in == "support.boxes:FollowInUnit-v0"
    # `nfkern eval` knows the environment from the run.
    assert cli.main(["eval", str(tmp_path / "run"), "--episodes-per-task", "3"]) == 0
    printed = capsys.readouterr().out
    assert "support.boxes:FollowInUnit-v0, 3 episodes, seed 0\n" in printed
    # Its one task has no name.
    assert [line.split()[:3] for line in printed.splitlines()[1:]] == [
        ["success", "95%", "interval"],
        ["all", "episodes", "0/3"],
    ]


def test_own_data_are_evaluated_on_parts_of_dict_observations(own_data, tmp_path, capsys):
    name = register("unit", FollowInParts)
    flags = ["--eval-env", f"support.boxes:{name}", "--eval-episodes", "2"]
    assert cli.main(command(own_data, tmp_path / "run", *flags)) == 2
    assert "name those that the data have" in capsys.readouterr().err
    flags[1] += "[position,desired_goal]"
    assert cli.main(command(own_data, tmp_path / "run", *flags)) == 0
    assert cli.main(["eval", str(tmp_path / "run"), "--episodes-per-task", "3"]) == 0
    assert f"{name}[position,desired_goal], 3 episodes, seed 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval-env", "CartPole-v1"], "only boxes of floats can be evaluated"),
        (["--eval-env", "Pendulum-v1"], r"expected observations of shape \(4,\), as in the data, got \(3,\)"),
        (["--eval-env", "NoSuch-v0"], "--eval-env: unknown dataset or environment 'NoSuch-v0'"),
        (["--eval-env", "no_such_module:Env-v0"], "the module no_such_module cannot be imported"),
        (["--eval-env", "support.boxes:NoSuch-v0"], "importing support.boxes registers no environment 'NoSuch-v0'"),
        (["--init-from", "nowhere"], "nowhere is no run"),
        (["--train-episodes", "0"], "train_episodes: expected at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(flags, message, own_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "take_steps", lambda *arguments: pytest.fail("training has begun"))
    assert cli.main(command(own_data, tmp_path / "run", *flags)) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert __import__("re").search(message, error), error
    assert not (tmp_path / "run").exists()


def test_a_goal_conditioned_agent_needs_an_environment_with_goals(own_data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "take_steps", lambda *arguments: pytest.fail("training has begun"))
    from support.boxes import Follow

    monkeypatch.setattr(Follow, "reset", lambda self, seed=None, options=None: (np.zeros(4, np.float32), {}))
    options = {"env_name": str(own_data), "eval_env": register("unit"), "eval_episodes": 1}
    with pytest.raises(UserError, match="gives no goals .* which the policy wants.*--eval-env"):
        run(None, tmp_path / "run", **options | {"dataset_dir": tmp_path})


def test_the_start_says_what_is_trained(point_maze_dir, tmp_path, capsys):  # noqa: F811
    run(point_maze_dir, tmp_path / "run", quiet=False, seeds="0,1", config={"warmup_steps": 20})
    lines = [line for line in capsys.readouterr().err.splitlines() if ": " in line][:5]
    first = sum(v.numel() for k, v in weights(tmp_path / "run" / "seed-0", 20).items() if k.startswith("networks."))
    buffers = 2 * 2 * NETWORKS["blocks"]
    assert lines[0].startswith("nf_gcbc: ")
    assert abs(int(lines[0].split()[1].replace(",", "")) - first) <= buffers
    assert "parameters for each of 2 seeds, 20 steps" in lines[0]
    assert lines[1].startswith("device: cpu, ")
    assert lines[1].endswith(f"{torch.get_num_threads()} threads")
    assert lines[2] == f"data: {POINT_MAZE}, 1,000 transitions in 10 episodes"
    assert lines[3] == "evaluation: none"
    assert lines[4] == f"run: {tmp_path / 'run' / 'seed-0'}, {tmp_path / 'run' / 'seed-1'}"


@pytest.mark.parametrize(("steps", "every"), [(20, 1), (500, 5), (10**6, 1000)])
def test_a_short_run_has_a_curve(steps, every):
    assert RunSettings(POINT_MAZE).log_every(steps) == every
    assert RunSettings(POINT_MAZE, log_interval=7).log_every(steps) == 7


# Longer runs


def test_a_run_with_a_constant_schedule_goes_on_as_if_it_had_been_longer(point_maze_dir, tmp_path):  # noqa: F811
    constant = {"schedule": "constant", "warmup_steps": 5}
    run(point_maze_dir, tmp_path / "straight", steps=40, config=constant, log_interval=10)
    run(point_maze_dir, tmp_path / "longer", steps=20, config=constant, log_interval=10)
    run(point_maze_dir, tmp_path / "longer", steps=40, config=constant, log_interval=10, resume=True)
    expected, found = weights(tmp_path / "straight", 40), weights(tmp_path / "longer", 40)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert Run(tmp_path / "longer").header["config"]["steps"] == 40
    assert [row["step"] for row in rows(tmp_path / "longer")] == ["10", "20", "30", "40"]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [None, "0,1"])
def test_a_finished_cosine_run_goes_on_at_its_final_rate(seeds, point_maze_dir, tmp_path):  # noqa: F811
    cosine = {"schedule": "cosine", "warmup_steps": 5, "final_learning_rate": 1e-5}
    options = {"config": cosine, "log_interval": 1} | ({} if seeds is None else {"seeds": seeds})
    run(point_maze_dir, tmp_path / "run", steps=20, **options)
    # Once more: the end of the schedule is that of the first stretch, not of the last.
    run(point_maze_dir, tmp_path / "run", steps=30, resume=True, **options)
    run(point_maze_dir, tmp_path / "run", steps=40, resume=True, **options)
    for folder in [tmp_path / "run"] if seeds is None else (tmp_path / "run").iterdir():
        rates = [float(row["training/learning_rate"]) for row in rows(folder)]
        assert rates[4] == pytest.approx(3e-4, rel=1e-6)
        assert rates[19:] == pytest.approx([1e-5] * 21, rel=1e-6)


def test_an_unfinished_cosine_run_keeps_its_length(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    run(point_maze_dir, tmp_path / "run", steps=20)
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000020")
    with pytest.raises(UserError, match="is at step 10 of 20, which its cosine schedule spans"):
        run(point_maze_dir, tmp_path / "run", steps=40, resume=True)
    with pytest.raises(UserError, match="has taken 10 steps: expected --steps of at least that, got 5"):
        run(point_maze_dir, tmp_path / "run", steps=5, resume=True)
    assert Run(tmp_path / "run").header["config"]["steps"] == 20


# Other weights


def test_a_run_starts_from_anothers_weights(point_maze_dir, tmp_path):  # noqa: F811
    source = run(point_maze_dir, tmp_path / "source", seed=3)
    run(point_maze_dir, tmp_path / "next", init_from=source, steps=1, config={"learning_rate": 1e-30})
    before, after = weights(source, 20), weights(tmp_path / "next", 1)
    learned = [name for name in before if name.startswith("networks.")]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in learned)
    assert torch.equal(before["observation_normalizer.center"], after["observation_normalizer.center"])
    with pytest.raises(UserError, match="--init-from: the networks of .* have other settings or sizes"):
        run(point_maze_dir, tmp_path / "wider", init_from=source, config={"hidden": (16, 8)})
    with pytest.raises(UserError, match="--init-from: expected a run of nf_bc, got one of nf_gcbc"):
        run(point_maze_dir, tmp_path / "other", "nf_bc", init_from=source)
    assert not (tmp_path / "wider").exists()


def test_a_run_goes_on_from_no_other_weights_than_it_began_with(own_data, tmp_path, capsys):
    def train_in(folder, *flags):
        code = cli.main(command(own_data, tmp_path / folder, "--eval-episodes", "0", "--quiet", *flags))
        return code, capsys.readouterr().err

    source, other = str(tmp_path / "source"), str(tmp_path / "other")
    assert [train_in(folder)[0] for folder in ("source", "other")] == [0, 0]
    assert train_in("run", "--init-from", source)[0] == 0
    # The same command, and one that names no weights, go on.
    assert train_in("run", "--init-from", source, "--resume")[0] == 0
    assert train_in("run", "--resume")[0] == 0
    code, said = train_in("run", "--init-from", other, "--resume")
    assert code == 2
    assert f"init_from {Path(source).resolve()} there, {Path(other).resolve()} now" in said
    code, said = train_in("other", "--init-from", source, "--resume")
    assert code == 2
    assert "init_from None there" in said


# Numbers that are none


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["nf_gcbc", "gaussian_bc", "iql"])
@pytest.mark.parametrize("seeds", [None, "0,1"])
def test_a_loss_that_is_no_number_stops_the_run(algorithm, seeds, own_data, tmp_path, monkeypatch):
    kind = AGENTS[algorithm]
    original, calls = kind.forward, []

    def broken(self, batch, noise):
        calls.append(1)
        loss, info = original(self, batch, noise)
        return loss * (math.nan if len(calls) > 25 else 1), info

    monkeypatch.setattr(kind, "forward", broken)
    config = kind.config_class(hidden=(8, 8), batch_size=16, steps=200)
    settings = (
        {"env_name": str(own_data), "run_dir": tmp_path / "run"} | QUIET | ({} if seeds is None else {"seeds": seeds})
    )
    with pytest.raises(
        UserError, match=r"(nan|not finite).* at step \d+; the newest checkpoint that is finite is .*00000"
    ):
        train(algorithm, config, RunSettings(**settings))
    for folder in (tmp_path / "run").rglob("agent.safetensors"):
        assert all(tensor.isfinite().all() for name, tensor in load_file(folder).items() if "action_" not in name)


def test_no_checkpoint_holds_a_weight_that_is_no_number(own_data, tmp_path, monkeypatch):
    kind = AGENTS["gaussian_bc"]
    original = kind.average

    def broken(self):
        original(self)
        if self.scheduler.last_epoch == 14:
            next(self.parameters()).data[0] = math.inf

    monkeypatch.setattr(kind, "average", broken)
    config = kind.config_class(hidden=(8, 8), batch_size=16, steps=200)
    # No row of the log is due before the checkpoint is.
    settings = {"env_name": str(own_data), "run_dir": tmp_path / "run", "log_interval": 100} | QUIET
    with pytest.raises(UserError, match=r"the weight networks.* is not finite at step 20; .* is .*00000010"):
        train("gaussian_bc", config, RunSettings(**settings))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000010"]


# A run that fails before it has results


@pytest.mark.parametrize("seeds", [None, "0,1"])
def test_a_run_that_fails_before_its_first_result_gives_its_folder_back(seeds, own_data, tmp_path, monkeypatch):
    kind = AGENTS["gaussian_bc"]
    settings = {"env_name": str(own_data), "run_dir": tmp_path / "run", "seeds": seeds, "log_interval": 5} | QUIET
    settings = RunSettings(**{name: value for name, value in settings.items() if value is not None})

    def config(batch_size):
        return kind.config_class(hidden=(8, 8), batch_size=batch_size, steps=20)

    def without_memory(self, batch, noise):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def not_a_number(self, batch, noise, original=kind.forward):
        loss, info = original(self, batch, noise)
        return loss * math.nan, info

    for forward, error in ((without_memory, torch.OutOfMemoryError), (not_a_number, UserError)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "forward", forward)
            with pytest.raises(error):
                train("gaussian_bc", config(16), settings)
        assert not list((tmp_path / "run").rglob("*.json"))
    # Another batch size would make another run of a folder that is claimed.
    folder = train("gaussian_bc", config(8), settings)
    assert len(list(folder.rglob("00000020"))) == (1 if seeds is None else 2)


def test_a_run_with_a_row_of_its_log_keeps_its_folder(own_data, tmp_path, monkeypatch):
    kind = AGENTS["gaussian_bc"]
    update, calls = Learner.update, []

    def failing(self):
        calls.append(1)
        if len(calls) == 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(self)

    monkeypatch.setattr(Learner, "update", failing)
    config = kind.config_class(hidden=(8, 8), batch_size=16, steps=20)
    settings = {"env_name": str(own_data), "run_dir": tmp_path / "run", "log_interval": 5} | QUIET
    with pytest.raises(torch.OutOfMemoryError):
        train("gaussian_bc", config, RunSettings(**settings))
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        train("gaussian_bc", config, RunSettings(**settings))
    train("gaussian_bc", config, RunSettings(**settings, resume=True))
    assert [row["step"] for row in rows(tmp_path / "run")] == ["5", "10", "15", "20"]


# Checkpoints and headers


def test_colleagues_may_read_what_the_umask_says(point_maze_dir, tmp_path):  # noqa: F811
    import os

    for mask in (0o022, 0o027):
        former = os.umask(mask)
        try:
            run_dir = run(point_maze_dir, tmp_path / f"{mask:o}", steps=10)
        finally:
            os.umask(former)
        checkpoint = run_dir / "checkpoints" / "00000010"
        assert checkpoint.stat().st_mode & 0o777 == 0o777 & ~mask
        assert {file.stat().st_mode & 0o777 for file in checkpoint.iterdir()} == {0o666 & ~mask}


def test_training_episodes_are_drawn_once_for_all_seeds(point_maze_dir, tmp_path):  # noqa: F811
    from nfkern.algorithms.data import TransitionDataset

    whole = TransitionDataset.load(POINT_MAZE, point_maze_dir)
    part = whole.draw_episodes(3)
    assert (part.episodes, len(part)) == (3, 300)
    with pytest.raises(ValueError, match="count: expected 1 to 10, the episodes of .*, got 11"):
        whole.draw_episodes(11)
    starts = {tuple(whole.observations[row]) for row in whole.episode_starts}
    assert {tuple(part.observations[row]) for row in part.episode_starts} < starts
    assert np.array_equal(part.observations, whole.draw_episodes(3).observations)
    run(point_maze_dir, tmp_path / "run", train_episodes=3)
    with pytest.raises(UserError, match="holds another run: train_episodes 3 there, 4 now"):
        run(point_maze_dir, tmp_path / "run", train_episodes=4, resume=True)


def test_the_papers_pusht_has_90_demonstrations():
    from nfkern.algorithms.commands.train import COMMANDS

    default = COMMANDS["nf_bc"].default(["--preset", "pusht"])
    assert default.settings.train_episodes == 90
    assert json.dumps(default.config.action_normalization) == '"min_max"'


# The introduction, and what an error is shown without


def test_a_preset_is_named_when_training_begins_and_not_before(own_data, tmp_path, capsys):
    flags = ["--preset", "pointmass", "--eval-episodes", "0"]
    assert cli.main(command(own_data, tmp_path / "run", *flags, "--init-from", "nowhere")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(command(own_data, tmp_path / "run", *flags)) == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("preset pointmass: ")
    assert second.startswith("nf_bc: ")


@pytest.mark.parametrize(("warmup", "told"), [("3", True), ("2", False)])
def test_a_warm_up_longer_than_the_training_is_told(own_data, tmp_path, capsys, warmup, told):
    flags = ["--eval-episodes", "0", "--warmup-steps", warmup]
    assert cli.main(command(own_data, tmp_path / "run", *flags)) == 0
    line = "warm-up: 3 steps (--warmup-steps), more than are taken: the learning rate never reaches its peak of 0.0003"
    assert (line in capsys.readouterr().err.splitlines()) == told


@pytest.mark.parametrize("algorithm", ["nf_bc", "nf_gcbc"])
def test_small_settings_go_with_any_data(own_data, tmp_path, capsys, algorithm):
    flags = ["--preset", "small", "--steps", "1", "--batch-size", "8", "--eval-episodes", "0"]
    assert cli.main(["train", algorithm, "--env-name", str(own_data), "--run-dir", str(tmp_path / "run"), *flags]) == 0
    assert "preset small: chosen here" in capsys.readouterr().err
    config = Run(tmp_path / "run").header["config"]
    assert (config["hidden"], config["learning_rate"]) == ([128, 128], 1e-3)


def test_the_start_needs_no_kernels(own_data, tmp_path, capsys, monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr("nfkern.algorithms.training.preparation.backend_reasons", lambda name, device: ["not built"])
    monkeypatch.setattr("nfkern.algorithms.training.preparation.threads_in_use", missing)
    assert cli.main(command(own_data, tmp_path / "run", "--eval-episodes", "0")) == 0
    threads = torch.get_num_threads()
    assert f"device: cpu, reference instead of native kernels (not built), {threads} threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "meta"], "--device: expected auto, cpu, cuda or cuda:N, got 'meta'"),
        (["--device", "mps"], "--device: expected auto, cpu, cuda or cuda:N, got 'mps'"),
        (["--threads", "1e9"], "threads: expected at most 4096, got 1000000000"),
        (["--eval-env", ""], "--eval-env: unknown dataset or environment ''"),
        (["--eval-env", "Reachr-v5"], "did you mean Reacher-v5 or "),
        (["--eval-env", "gymnasium:Reachr-v5"], "registers no environment 'Reachr-v5'; did you mean Reacher-v5"),
        (["--batch-size", "1e15"], "out of memory: Unable to allocate"),
        (["--hidden", "1e9", "1e9"], "out of memory: you tried to allocate"),
    ],
)
def test_what_asks_for_too_much_or_nothing_is_one_line(flags, message, own_data, tmp_path, capsys):
    assert cli.main(command(own_data, tmp_path / "run", "--quiet", *flags)) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert message in error
