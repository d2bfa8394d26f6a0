"""The paper's 82 tasks: all there, and each command starts from a preset of an environment that exists."""

import functools
import json
import re
import shlex
from collections import Counter

import pytest
from support.boxes import write_random
from support.evaluation_policies import cut_episodes
from support.selected import selected

from nfkern.algorithms.agents.registry import AGENTS, find_preset
from nfkern.algorithms.commands.tasks import tasks
from nfkern.algorithms.commands.train import COMMANDS
from nfkern.algorithms.data.recipes import data_name
from nfkern.algorithms.envs.make import environment_id, make_environment
from nfkern.algorithms.envs.maze_layouts import MAZES
from nfkern.cli import commands as cli


def test_the_papers_numbers_of_tasks():
    found = tasks()
    counts = Counter(task.setting for task in found)
    assert counts == {"imitation": 4, "conditional": 45, "offline-rl": 30, "unsupervised": 3}
    assert len({task.name for task in found}) == 82
    assert all(0 <= score <= 100 for task in found for score in (task.published, *task.rivals.values()))


def test_every_preset_has_a_source_that_can_be_looked_up():
    for agent in AGENTS.values():
        for name, preset in agent.presets.items():
            assert preset.source, name
            assert "memory" not in preset.source, name
    # What a reprint of FQL's table has for this environment alone.
    assert {name: preset.config.candidates for name, preset in AGENTS["ifql"].presets.items()} == {
        name: 64 if name.startswith("antsoccer") else 32 for name in AGENTS["ifql"].presets
    }


def test_means_of_the_papers_tables():
    # The mean of the paper's nine datasets, and NF-RLBC's on antmaze-large by its own table.
    conditional = {task.environment: task.published for task in tasks() if task.setting == "conditional"}
    assert sum(conditional.values()) / 9 == pytest.approx(45.3, abs=0.05)
    large = [task.published for task in tasks() if task.name.startswith("antmaze-large-navigate-task")]
    assert sum(large) / 5 == pytest.approx(72.7, abs=0.05)


@pytest.mark.parametrize("task", tasks(), ids=lambda task: task.name)
def test_every_command_finds_its_preset_and_its_environment(task):
    words = shlex.split(task.command)
    assert words[:3] == ["nfkern", "train", task.algorithm]
    name = words[words.index("--preset") + 1]
    assert find_preset(task.algorithm, name).config == COMMANDS[task.algorithm].default(words[3:]).config
    if task.setting == "unsupervised":
        assert task.environment == find_preset(task.algorithm, name).env_name
        assert task.environment in MAZES
    elif task.environment:
        assert environment_id(task.environment)
        given = words[words.index("--env-name") + 1] if "--env-name" in words else None
        preset = find_preset(task.algorithm, name).env_name
        assert task.environment in (given, preset)
        assert environment_id(preset)


@pytest.mark.parametrize("task", tasks(), ids=lambda task: task.name)
def test_every_rivals_command_finds_its_preset_and_its_environment(task):
    assert set(task.rival_commands) <= set(task.rivals)
    assert (set(task.rival_commands) == set(task.rivals)) == (task.setting in ("conditional", "unsupervised"))
    for command in task.rival_commands.values():
        nfkern, train, algorithm, *options = shlex.split(command)
        assert (nfkern, train) == ("nfkern", "train")
        preset = find_preset(algorithm, options[options.index("--preset") + 1])
        named = options[options.index("--env-name") + 1] if "--env-name" in options else preset.env_name
        assert named == task.environment


OWN = {"ur3": (6, 2), "ant": (41, 8)}
COMMANDS_OF_TASKS = {
    command: task
    for task in tasks()
    for command in (task.command, *task.rival_commands.values())
    # One task of each environment: the others differ in the number alone.
    if task.goal in (None, 1) and not re.search("task[2-5]", task.name)
}
QUICK = [command for command in COMMANDS_OF_TASKS if "ur3" in command or "train iql --preset cube-single" in command]


@pytest.mark.slow
@pytest.mark.parametrize("command", selected(COMMANDS_OF_TASKS, QUICK, part="commands"))
def test_every_command_runs_as_printed(command, tmp_path, monkeypatch, capsys):
    """Two steps on data of the right shape, and an evaluation of one short episode."""
    task = COMMANDS_OF_TASKS[command]
    monkeypatch.chdir(tmp_path)
    words = [*shlex.split(command)[1:], "--steps", "2", "--eval-episodes", "1", "--quiet"]
    if task.setting == "unsupervised":
        words += [
            "--num-envs",
            "2",
            "--prefill-length",
            "70",
            "--unroll-length",
            "62",
            "--buffer-length",
            "200",
            "--batch-size",
            "8",
        ]
        words += ["--candidates", "4", "--updates-per-unroll", "2", "--width", "8"]
        monkeypatch.setattr("nfkern.algorithms.training.online.evaluate_goals", lambda *_, **__: {"success": 0.0})
    else:
        cut_episodes(monkeypatch, 2)
        words += ["--dataset-dir", "."]
        sizes = OWN.get(task.name) or sizes_in(task.environment)
        name = "DATA" if task.environment is None else data_name(task.environment)
        for file in (f"{name}.npz", f"{name}-val.npz"):
            write_random(tmp_path / file, *sizes)
    assert cli.main(words) == 0
    folder = capsys.readouterr().out.strip()
    assert (tmp_path / folder / "checkpoints" / "00000002").is_dir()
    assert (tmp_path / folder / "eval.csv").exists() == (task.environment is not None)


@functools.cache
def sizes_in(environment):
    env = make_environment(environment)
    observation, _ = env.reset(seed=0)
    sizes = observation.shape[0], env.action_space.shape[0]
    env.close()
    return sizes


def test_the_long_mazes_have_the_papers_longer_horizon():
    gammas = {task.environment: find_preset("nf_gcbc", task.name[:-6]).config.gamma for task in tasks() if task.goal}
    assert {name for name, gamma in gammas.items() if gamma == 0.99} == {
        "antmaze-large-navigate-v0",
        "cube-double-play-v0",
    }


def test_the_table_and_its_json(capsys):
    assert cli.main(["tasks"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"cube-single-play-goal3 +nf_gcbc +79\.5\*  GCIQL 68", text)
    assert re.search(r"puzzle-3x3-play-task3 +nf_rlbc +97\.6   FQL 30", text)
    assert cli.main(["tasks", "--json", "--setting", "unsupervised"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in listed] == ["ant-u-maze", "ant-big-maze", "ant-hardest-maze"]
