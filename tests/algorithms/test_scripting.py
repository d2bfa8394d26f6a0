"""From Python in five lines: what a call trains, it evaluates and draws, and it says what it cannot."""

import gymnasium
import numpy as np
import pytest
import torch
from support.boxes import Follow, register, scripted

import nfkern
from nfkern.algorithms.data import TransitionDataset
from nfkern.errors import UserError

QUICK = {"steps": 2, "batch_size": 4, "eval_episodes": 0, "quiet": True}
SMALL = QUICK | {"blocks": 2, "hidden": [8, 8], "encoder_width": 8}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(rows=40, rewards=False):
    generator = np.random.default_rng(0)
    found = [generator.normal(size=(rows, 3)), generator.uniform(-1, 1, (rows, 2)), np.arange(rows) % 10 == 9]
    return (*found, generator.normal(size=rows)) if rewards else tuple(found)


@pytest.mark.slow
def test_a_script_is_learned_from_arrays_and_followed(folder, capsys):
    data, box = scripted("unit", episodes=40), register("unit")
    config = {"steps": 1500, "batch_size": 256, "learning_rate": 1e-3, "hidden": [64, 64], "eval_episodes": 0}
    policy = nfkern.train("gaussian_bc", data, run_dir="runs/mine", quiet=True, **config)
    for env in (box, Follow("unit")):
        result = nfkern.evaluate(policy, env, episodes=20, progress=False)
        assert result.success_rate > 0.9
        assert "all episodes" in str(result)
    nothing = nfkern.evaluate(lambda observation: np.zeros(2), box, episodes=20, progress=False)
    assert nothing.success_rate < 0.2
    # The same starts: what the script itself does.
    perfect = nfkern.evaluate(lambda observation, goal: goal[:2], box, episodes=20, progress=False)
    assert perfect.success_rate == 1.0
    assert [e.seed for e in perfect.episodes] == [e.seed for e in nothing.episodes]


def test_arrays_lie_beside_the_run_which_can_be_continued(folder):
    data = arrays()
    nfkern.train("nf_bc", data, run_dir="runs/a", **SMALL)
    (file,) = (folder / "runs").glob("data-*.npz")
    stored = TransitionDataset.read(file)
    np.testing.assert_array_equal(stored.observations, data[0].astype(np.float32))
    np.testing.assert_array_equal(stored.actions, data[1].astype(np.float32))
    with pytest.raises(UserError, match="already holds a run"):
        nfkern.train("nf_bc", data, run_dir="runs/a", **SMALL)
    longer = nfkern.train("nf_bc", data, run_dir="runs/a", resume=True, **SMALL | {"steps": 4})
    assert "step 4" in repr(longer)
    with pytest.raises(UserError, match="runs/a holds another run: dataset .* there, .* now"):
        nfkern.train("nf_bc", arrays(50), run_dir="runs/a", resume=True, **SMALL)
    assert "nf_bc, step 2" in repr(nfkern.load("runs/a", step=2))


def test_what_a_command_does_a_call_does(folder):
    """The same settings: the same weights."""
    from nfkern.cli import commands

    observations, actions, terminals = arrays()
    np.savez("mine.npz", observations=observations, actions=actions, terminals=terminals)
    words = "--steps 2 --batch-size 4 --eval-episodes 0 --quiet --blocks 2 --hidden 8 8 --encoder-width 8 --seed 3"
    command = ["train", "nf_bc", "--preset", "small", "--env-name", "mine.npz", "--run-dir", "runs/command"]
    assert commands.main([*command, *words.split()]) == 0
    nfkern.train("nf_bc", "mine.npz", preset="small", seed=3, run_dir="runs/call", **SMALL)
    one, other = (folder / "runs" / name / "checkpoints" / "00000002" for name in ("command", "call"))
    assert (one / "agent.safetensors").read_bytes() == (other / "agent.safetensors").read_bytes()


@pytest.mark.parametrize("algorithm", ["iql", "nf_rlbc"])
def test_rewards_come_as_a_fourth_array_or_in_a_dataset(algorithm):
    small = QUICK | {"critic_hidden": [8], "hidden": [8, 8]}
    data = arrays(rewards=True)
    nfkern.train(algorithm, data, run_dir="runs/four", **small)
    masks = np.ones(40, np.float32)
    dataset = TransitionDataset(*(each.astype(np.float32) for each in data[:3]), rewards=data[3], masks=masks)
    nfkern.train(algorithm, dataset, run_dir="runs/five", **small)
    names = ("observations", "actions", "terminals", "rewards")
    nfkern.train(algorithm, dict(zip(names, data, strict=True)), run_dir="runs/named", **small)
    runs = [nfkern.load(f"runs/{name}") for name in ("four", "five", "named")]
    one, *others = (run.act(np.ones(3), generator=generator()) for run in runs)
    for other in others:
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="rewards"):
        nfkern.train(algorithm, arrays(), run_dir="runs/none", **small)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("algorithm", "data", "settings", "error", "message"),
    [
        ("nf_bcc", arrays(), {}, UserError, "algorithm: expected one of nf_bc, .* got 'nf_bcc'; did you mean nf_bc"),
        ("nf_bc", arrays(), {"stepz": 3}, TypeError, "stepz: nf_bc has no such setting; did you mean steps"),
        ("nf_bc", arrays(), {"learning_rate": -1.0}, ValueError, "learning_rate: expected a number > 0, got -1.0"),
        ("nf_bc", arrays(), {"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ("nf_bc", arrays(), {"seeds": "0..3"}, TypeError, "seeds: expected one seed"),
        ("nf_bc", arrays(), {"preset": "large"}, UserError, "preset: nf_bc has .*small, got 'large'"),
        ("nf_bc", arrays()[:2], {}, UserError, r"data: expected arrays \(observations, actions, terminals"),
        ("nf_bc", (*arrays()[:2], np.zeros(40)), {}, UserError, "data: the last row does not end an episode"),
        ("nf_bc", (arrays()[0] * np.nan, *arrays()[1:]), {}, UserError, "data: observations holds 120 values that are"),
        ("nf_bc", (arrays()[0][:30], *arrays()[1:]), {}, UserError, "data: columns differ in length: observations"),
        ("nf_bc", (np.array([["a"]] * 40), *arrays()[1:]), {}, UserError, "data: observations"),
        ("nf_bc", {"observations": arrays()[0]}, {}, UserError, "data: expected observations, .* got observations"),
        ("nf_bc", arrays()[0], {}, UserError, r"data: expected arrays \(.*, got ndarray"),
        ("nf_bc", arrays(), {"eval_env": Follow("unit")}, TypeError, "eval_env: expected an environment's name"),
        ("nf_bc", "nowhere-v0", {}, UserError, "there is no dataset file"),
        ("nf_ugs", "point-v-maze", {}, UserError, "point-v-maze"),
    ],
)
def test_what_cannot_be_trained(algorithm, data, settings, error, message, folder):
    with pytest.raises(error, match=message):
        nfkern.train(algorithm, data, run_dir="runs/a", **{"steps": 2, "eval_episodes": 0} | settings)
    assert not [path for path in folder.rglob("*") if path.is_file()]


OWN_ENCODER = """
import torch

class Own(torch.nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(torch.nn.Linear(inputs, 7), torch.nn.Tanh(), torch.nn.Linear(7, outputs))

class TooWide(torch.nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs + 1)

def function(inputs, outputs):
    raise AssertionError("was called")
"""


@pytest.mark.parametrize("algorithm", ["nf_bc", "nf_gcbc", "nf_rlbc"])
def test_an_encoder_of_ones_own(algorithm, folder, monkeypatch, capsys):
    from nfkern.cli import commands

    (folder / "own_encoders.py").write_text(OWN_ENCODER)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    data = arrays(rewards=algorithm == "nf_rlbc")
    policy = nfkern.train(algorithm, data, run_dir="runs/a", encoder="own_encoders:Own", **SMALL)
    goal = {"goal": np.ones(3)} if algorithm == "nf_gcbc" else {}
    again = nfkern.load("runs/a")
    own = __import__("own_encoders").Own
    assert isinstance(again.policy.flow.encoder, own)
    one, other = (each.act(np.ones(3), generator=generator(), **goal) for each in (policy, again))
    np.testing.assert_array_equal(one, other)
    # By its class, too, and from the command line.
    nfkern.train(algorithm, data, run_dir="runs/b", encoder=own, **SMALL)
    files = [folder / "runs" / name / "checkpoints" / "00000002" / "agent.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    (file,) = (folder / "runs").glob("data-*.npz")
    words = f"train {algorithm} --env-name {file} --encoder own_encoders:Own --run-dir runs/c --steps 2 --batch-size 4"
    small = "--eval-episodes 0 --quiet --blocks 2 --hidden 8 8 --encoder-width 8"
    assert commands.main([*words.split(), *small.split()]) == 0
    assert isinstance(nfkern.load("runs/c").policy.flow.encoder, own)
    for name, message in (
        ("own_encoders:TooWide", r"expected own_encoders:TooWide to return shape \(2, \d+\) for \(2, \d+\)"),
        ("torch.nn:LSTM", r"expected torch.nn:LSTM\(\d+, \d+\) to take rows of shape"),
        ("torch.nn:Conv2d", r"expected torch.nn:Conv2d\(\d+, \d+\) to take rows of shape"),
        ("own_encoders:function", "expected a class of torch.nn.Module"),
        ("own_encoders:Nothing", "expected MODULE:CLASS that can be imported"),
        ("nowhere:Own", "expected MODULE:CLASS that can be imported"),
        ("os:system", "expected a class of torch.nn.Module"),
    ):
        with pytest.raises(ValueError, match=message):
            nfkern.train(algorithm, data, run_dir="runs/d", encoder=name, **SMALL)
    with pytest.raises(TypeError, match="encoder: expected a class"):
        nfkern.train(algorithm, data, run_dir="runs/d", encoder=torch.nn.Linear(3, 4), **SMALL)


class Model:
    """A model of Stable-Baselines3."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        return observation[2:], None


def test_other_policies_are_evaluated(folder):
    result = nfkern.evaluate(Model(), Follow("unit"), episodes=3, progress=False)
    assert result.success_rate == 1.0
    short = nfkern.evaluate(Model(), Follow("unit"), episodes=1, max_episode_steps=3, progress=False)
    assert short.episodes[0].length == 3
    with pytest.raises(TypeError, match="policy: expected a policy, a model with `predict` or a function, got int"):
        nfkern.evaluate(3, Follow("unit"))
    nfkern.train("nf_bc", arrays(), run_dir="runs/a", **SMALL)
    with pytest.raises(ValueError, match=r"Follow: expected observations of shape \(3,\), as in the data, got \(4,\)"):
        nfkern.evaluate("runs/a", Follow("unit"))
    with pytest.raises(UserError, match="unknown dataset or environment"):
        nfkern.evaluate(Model(), "nowhere-v0")
    with pytest.raises(ValueError, match="actions in Discrete"):
        nfkern.evaluate(Model(), gymnasium.make("CartPole-v1"))


@pytest.mark.slow
def test_an_evaluation_is_the_commands(folder, capsys):
    """The same starts and noise: the same episodes."""
    import json

    from nfkern.cli import commands

    box = register("unit")
    policy = nfkern.train("nf_bc", scripted("unit", episodes=4), run_dir="runs/a", **SMALL)
    mine = nfkern.evaluate(policy, box, episodes=6, seed=2, progress=False)
    command = ["eval", "runs/a", "--eval-env", box, "--episodes-per-task", "6", "--seed", "2", "--json"]
    assert commands.main(command) == 0
    (theirs,) = json.loads(capsys.readouterr().out)["runs"]
    assert theirs["episodes"] == mine.to_dict()["episodes"]


@pytest.mark.slow
def test_figures(folder):
    data = scripted("unit", episodes=4)
    runs = []
    for seed in (0, 1):
        for algorithm in ("gaussian_bc", "flow_matching_bc"):
            runs.append(f"runs/{algorithm}-{seed}")
            settings = QUICK | {"hidden": [8], "eval_env": register("unit"), "eval_episodes": 4, "seed": seed}
            nfkern.train(algorithm, data, run_dir=runs[-1], **settings)
    figure = nfkern.plot.success(runs, "success.pdf")
    assert (folder / "success.pdf").read_bytes().startswith(b"%PDF")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["gaussian_bc", "flow_matching_bc"]
    # Two algorithms, each with the dots of its two seeds.
    assert [len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"] == [2, 2]
    assert len(nfkern.plot.learning_curves(runs).axes) == 2
    assert len(nfkern.plot.actions(runs[0], "actions.png").axes) == 4
    with pytest.raises(UserError, match="no paths"):
        nfkern.plot.paths(runs)
    with pytest.raises(UserError, match="path: expected a name that ends in one of"):
        nfkern.plot.success(runs, "success.txt")
    with pytest.raises(UserError, match="expected at least one folder"):
        nfkern.plot.success([])


def test_importing_is_cheap():
    """The package's names come with `dir`, and torch only with those that need it."""
    import subprocess
    import sys

    code = "import nfkern, sys; assert {'train', 'load', 'plot'} <= set(dir(nfkern)); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
