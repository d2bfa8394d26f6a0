from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.evaluation_policies import Square, StraightToGoal, load_straight_to_goal

from nfkern.algorithms.envs.make import PinnedTask, make_environment
from nfkern.algorithms.evaluation.evaluate import EnvironmentPool, EvaluationResult, evaluate
from nfkern.algorithms.evaluation.result import stack_outcomes
from nfkern.algorithms.evaluation.rollout import run_block
from nfkern.errors import UserError

ENV = "pointmaze-medium-navigate-v0"
STEPS = 190


@pytest.fixture(scope="module")
def pool() -> EnvironmentPool:
    return EnvironmentPool(ENV, max_episode_steps=STEPS)


def short(policy: Any, pool: EnvironmentPool, **named: Any) -> EvaluationResult:
    named = {"episodes_per_task": 3, "tasks": [2, 3], "block_size": 2, "seed": 1, "progress": False} | named
    return evaluate(policy, pool, **named)


def test_every_task_gets_its_quota(pool: EnvironmentPool) -> None:
    result = short(StraightToGoal(), pool, tasks=[3, 2])
    assert [(e.task_id, e.episode) for e in result.episodes] == [(3, 0), (3, 1), (3, 2), (2, 0), (2, 1), (2, 2)]
    assert result.outcomes.shape == (2, 3)
    assert result.outcomes[0].sum() == 0
    assert result.outcomes[1].sum() > 0, "nothing succeeds: the test shows little"
    for episode in result.episodes:
        assert episode.episode_return == float(episode.success)
        assert episode.length == STEPS or (episode.success and episode.length < STEPS)


def test_episodes_in_lockstep_are_what_each_is_alone(pool: EnvironmentPool) -> None:
    # Without noise nothing ties the episodes of a block together, unless short ones crowd out long ones.
    policy = StraightToGoal(noise=0)
    together = short(policy, pool, tasks=[1, 2], episodes_per_task=4, block_size=4)
    alone = short(policy, pool, tasks=[1, 2], episodes_per_task=4, block_size=1)
    assert together.episodes == alone.episodes
    assert len({episode.length for episode in together.episodes}) > 3


def test_the_batch_keeps_its_shape_and_finished_episodes_rest(
    pool: EnvironmentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped: Counter[int] = Counter()
    step = PinnedTask.step

    def counting(self: PinnedTask, action: np.ndarray) -> Any:
        stepped[id(self)] += 1
        return step(self, action)

    monkeypatch.setattr(PinnedTask, "step", counting)
    policy = StraightToGoal(noise=0)
    environments = pool.take(4)
    episodes = run_block(policy, environments, task_id=2, first_episode=0, seed=1)
    lengths = [episode.length for episode in episodes]
    assert [stepped[id(environment)] for environment in environments] == lengths
    assert len(policy.seen) == max(lengths) > min(lengths)
    assert {observations.shape for observations in policy.seen} == {(4, 1, 2)}
    row = int(np.argmin(lengths))
    rest = np.stack([observations[row] for observations in policy.seen[min(lengths) :]])
    assert (rest == rest[0]).all()


def test_an_episode_can_be_started_again_from_its_row(pool: EnvironmentPool) -> None:
    result = short(StraightToGoal(), pool, record="xy")
    row = result.episodes[4]
    env = make_environment(ENV, task_id=row.task_id)
    start, _ = env.reset(seed=row.seed)
    trajectory = result.trajectories[row.task_id, row.episode]
    np.testing.assert_array_equal(trajectory.positions[0], start.astype(np.float32))
    np.testing.assert_array_equal(trajectory.goal, env.goal)
    assert len(trajectory.positions) == row.length + 1


def test_two_policies_get_the_same_starts_and_goals(pool: EnvironmentPool) -> None:
    first = short(StraightToGoal(), pool, record="xy")
    second = short(Square(), pool, record="xy", block_size=3)
    other = short(Square(), pool, record="xy", seed=2)
    for key, path in first.trajectories.items():
        np.testing.assert_array_equal(second.trajectories[key].positions[0], path.positions[0])
        np.testing.assert_array_equal(second.trajectories[key].goal, path.goal)
        assert (second.trajectories[key].positions[1] != path.positions[1]).any()
        assert (other.trajectories[key].positions[0] != path.positions[0]).any()
    assert stack_outcomes([first, second]).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="same starts"):
        stack_outcomes([first, other])


def test_every_block_has_its_own_noise() -> None:
    class Listening(StraightToGoal):
        noises: ClassVar[list[float]] = []

        def act(self, observations: np.ndarray, *_: Any, generator: torch.Generator | None = None) -> np.ndarray:
            self.noises.append(float(torch.randn(1, generator=generator)))
            return np.zeros((len(observations), 1, 2))

    one_step = EnvironmentPool(ENV, max_episode_steps=1)
    for seed in (0, 1, 0):
        short(Listening(), one_step, seed=seed)
    first, second, again = np.split(np.array(Listening.noises), 3)
    assert len({*first, *second}) == 8, "four blocks for each of two seeds"
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("execute", [4, 3])
def test_chunks_are_executed_as_told(pool: EnvironmentPool, execute: int) -> None:
    policy = Square(execute=execute)
    result = short(policy, pool, tasks=[1], episodes_per_task=1, record="xy")
    moves = np.diff(result.trajectories[1, 0].positions[: 2 * execute + 1], axis=0)
    # A point moves by 0.2 of the action, clipped to 1; the first steps meet no wall.
    corners = np.array([[1.0, 0.5], [-0.5, 1.0], [-1.0, -0.5], [1.0, -1.0]])[:execute]
    np.testing.assert_allclose(moves[:execute], 0.2 * corners, atol=1e-5)
    np.testing.assert_allclose(moves[execute:], moves[:execute], atol=1e-5)
    assert policy.decisions == -(-result.episodes[0].length // execute)


def test_a_decision_sees_the_history_oldest_first(pool: EnvironmentPool) -> None:
    policy = StraightToGoal(history=3)
    result = short(policy, pool, tasks=[1], episodes_per_task=2, record="xy")
    for row in range(2):
        path = result.trajectories[1, row].positions
        windows = [observations[row] for observations in policy.seen[:4]]
        np.testing.assert_array_equal(windows[0], path[[0, 0, 0]])
        np.testing.assert_array_equal(windows[1], path[[0, 0, 1]])
        np.testing.assert_array_equal(windows[3], path[[1, 2, 3]])


def test_nothing_outside_is_disturbed(pool: EnvironmentPool) -> None:
    np.random.seed(3)  # noqa: NPY002
    np.random.normal()  # noqa: NPY002 (leaves a second Gaussian in the cache)
    torch.manual_seed(3)
    before = np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    torch.set_num_threads(2)
    try:
        short(StraightToGoal(), pool)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert after["has_gauss"] == before[0]["has_gauss"] == 1  # type: ignore[call-overload]
    np.testing.assert_equal(after, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_an_interrupted_evaluation_goes_on(pool: EnvironmentPool, tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    whole = short(StraightToGoal(), pool, record="xy", progress_file=file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 4
    # As a kill may leave it: two blocks finished, out of order, and one being written.
    file.write_bytes(b"".join([lines[0], lines[3], lines[2], lines[1][:-40]]))
    policy = StraightToGoal()
    resumed = short(policy, pool, record="xy", progress_file=file)
    assert resumed == whole
    for key, path in whole.trajectories.items():
        np.testing.assert_array_equal(resumed.trajectories[key].positions, path.positions)
        np.testing.assert_array_equal(resumed.trajectories[key].goal, path.goal)
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)
    ran = sum(len(observations) == 2 for observations in policy.seen)
    assert ran <= STEPS, "finished blocks were run again"
    assert short(load_that_must_not_run, pool, record="xy", progress_file=file) == whole


def load_that_must_not_run() -> StraightToGoal:
    raise AssertionError("there is nothing left to run")


def test_progress_of_another_evaluation_is_refused(pool: EnvironmentPool, tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    short(StraightToGoal(), pool, tasks=[1], episodes_per_task=1, progress_file=file, label="one")
    with pytest.raises(UserError, match=r"label 'one', now 'two'.*delete it"):
        short(StraightToGoal(), pool, tasks=[1], episodes_per_task=1, progress_file=file, label="two")
    file.write_text("something else\n")
    with pytest.raises(UserError, match="not an evaluation's progress"):
        short(StraightToGoal(), pool, progress_file=file)


def test_results_survive_their_files(pool: EnvironmentPool, tmp_path: Path) -> None:
    result = short(StraightToGoal(), pool, record="xy")
    result.save(tmp_path / "new" / "result.json")
    assert EvaluationResult.load(tmp_path / "new" / "result.json") == result
    result.save_csv(tmp_path / "result.csv")
    rows = (tmp_path / "result.csv").read_text().splitlines()
    assert rows[0] == "task_id,episode,seed,success,episode_return,length,score"
    first = result.episodes[0]
    assert rows[1] == f"2,0,{first.seed},{int(first.success)},{first.episode_return},{first.length},"
    assert len(rows) == 1 + 6
    result.save_trajectories(tmp_path / "result.npz")
    with np.load(tmp_path / "result.npz") as arrays:
        last = arrays["positions"][arrays["offsets"][-2] : arrays["offsets"][-1]]
        np.testing.assert_array_equal(last, result.trajectories[3, 2].positions)
        np.testing.assert_array_equal(arrays["goals"][0], result.trajectories[2, 0].goal)
        np.testing.assert_array_equal(arrays["successes"], result.outcomes.ravel() == 1)
    assert not list(tmp_path.glob(".*"))


def test_unreadable_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"episodes": []}')
    with pytest.raises(UserError, match=r"result\.json cannot be read as an evaluation"):
        EvaluationResult.load(tmp_path / "result.json")
    with pytest.raises(UserError, match=r"missing\.json cannot be read"):
        EvaluationResult.load(tmp_path / "missing.json")


class Faulty(StraightToGoal):
    answer = np.zeros((2, 1, 2))

    def act(self, *_: Any, **__: Any) -> np.ndarray:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 2)), r"expected actions of shape \(2, 1, 2\), got \(2, 2\)"),
        (np.full((2, 1, 2), np.nan), "not finite"),
    ],
)
def test_faulty_actions_are_refused(pool: EnvironmentPool, answer: np.ndarray, message: str) -> None:
    policy = Faulty()
    policy.answer = answer
    with pytest.raises(ValueError, match=f"policy: .*{message}"):
        short(policy, pool)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"tasks": [1, 6]}, r"tasks: .*\(1, 2, 3, 4, 5\).*got \(1, 6\)"),
        ({"tasks": [1, 1]}, "tasks: "),
        ({"tasks": []}, "tasks: "),
        ({"episodes_per_task": 0}, "episodes_per_task, block_size: expected at least 1, got 0"),
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"record": "video"}, "record: expected None or \"xy\", got 'video'"),
        ({"workers": 2}, "policy: several workers need a function that loads it"),
        ({"max_episode_steps": 7}, f"max_episode_steps: the pool has {STEPS}, got 7"),
    ],
)
def test_arguments_that_do_not_fit_are_named(pool: EnvironmentPool, named: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        short(StraightToGoal(), pool, **named)


def test_loaders_for_workers_must_be_picklable(pool: EnvironmentPool) -> None:
    with pytest.raises(ValueError, match="can be pickled"):
        short(lambda: StraightToGoal(), pool, workers=2)


@pytest.mark.parametrize("named", [{"history": 0}, {"chunk": 2, "execute": 3}, {"execute": 0}])
def test_impossible_chunks_are_refused(pool: EnvironmentPool, named: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="history >= 1 and 1 <= execute <= chunk"):
        short(StraightToGoal(**named), pool)


def test_environments_without_goals_or_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="goal-conditioned, but the environment gives no goal"):
        evaluate(load_straight_to_goal, "Pendulum-v1", episodes_per_task=1, progress=False)
    with pytest.raises(ValueError, match="powderworld-easy-v0 has actions in Discrete"):
        evaluate(load_straight_to_goal, "powderworld-easy-v0", progress=False)
