"""Several processes, and what happens when they are interrupted or killed."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import evaluation_policies
from support.evaluation_policies import Square, StraightToGoal, load_dying, load_nothing, load_straight_to_goal
from support.selected import selected

from nfkern.algorithms.evaluation.blocks import _interrupts_held
from nfkern.algorithms.evaluation.evaluate import EvaluationResult, evaluate
from nfkern.errors import UserError

pytestmark = pytest.mark.slow


def short(policy: Any, **named: Any) -> EvaluationResult:
    named = {"episodes_per_task": 3, "tasks": [1, 2], "block_size": 2, "max_episode_steps": 190} | named
    return evaluate(policy, "pointmaze-medium-navigate-v0", record="xy", progress=False, **named)


@pytest.fixture(autouse=True)
def _workers_find_the_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    support = str(Path(evaluation_policies.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, os.environ.get("PYTHONPATH", "")]))


def test_the_number_of_workers_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    alone, shared = short(StraightToGoal()), short(load_straight_to_goal, workers=2, progress_file=file)
    assert shared == alone
    for key, path in alone.trajectories.items():
        np.testing.assert_array_equal(shared.trajectories[key].positions, path.positions)
    # The file's lines are in the order of finishing; another process reads them back.
    assert short(load_nothing, progress_file=file) == alone


def test_the_guides_environment_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[3] / "docs" / "data.md"
    (code,) = re.findall(r"```python\n(import gymnasium\n.*?)```", guide.read_text(), re.DOTALL)
    (tmp_path / "my_robot.py").write_text(code)
    # As for the script `nfkern`, the path does not have it.
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    loader = functools.partial(Square, goal_conditioned=False)
    result = evaluate(loader, "my_robot:Reach-v0", episodes_per_task=3, block_size=2, workers=2, progress=False)
    assert all(episode.length == 100 or episode.success for episode in result.episodes)
    assert not result.has_goals


def test_a_workers_error_arrives() -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        short(load_nothing, workers=2)


def test_a_killed_worker_is_reported_and_its_block_run_again(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    with pytest.raises(UserError, match="a worker process was killed"):
        short(load_dying, workers=2, progress_file=file)
    assert short(StraightToGoal(), progress_file=file) == short(StraightToGoal())


SCRIPT = """
from support import evaluation_policies
from pathlib import Path
from nfkern.algorithms.evaluation.evaluate import evaluate
evaluate(
    evaluation_policies.load_slow, "pointmaze-medium-navigate-v0", episodes_per_task=3, tasks=[1, 2], block_size=2,
    max_episode_steps=190, record="xy", progress=False, workers={workers}, progress_file=Path({file!r})
)
"""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("workers", "how"),
    selected([(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGINT)], [(1, signal.SIGKILL)], part="commands"),
)
def test_an_evaluation_that_is_killed_goes_on(tmp_path: Path, workers: int, how: signal.Signals) -> None:
    file = tmp_path / "progress.jsonl"
    script = SCRIPT.format(workers=workers, file=str(file))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") >= 2)
    started = children(process.pid)
    assert process.poll() is None, "it was over before it could be killed"
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == -how
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), seconds=20)
    finished = file.read_bytes().count(b"\n") - 1
    assert 1 <= finished < 4
    policy = StraightToGoal()
    assert short(policy, progress_file=file) == short(StraightToGoal())
    assert len(policy.seen) <= (4 - finished) * 190


def test_an_interrupt_while_workers_start_comes_when_they_have() -> None:
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    started = []

    def start() -> None:
        with _interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            # What starts meanwhile holds it back too.
            started.append(subprocess.check_output([sys.executable, "-c", code], text=True))

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started == ["True\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
