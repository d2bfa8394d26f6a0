"""Goals, histories, chunks and the sampler's state."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.dataset_fixture import numbered_dataset

from nfkern.algorithms.data import BatchSampler, GoalSampling, TransitionDataset

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any)
GOALS = {
    "geometric": GoalSampling.geometric(0.7),
    "uniform": GoalSampling.uniform(),
    "random": GoalSampling.random(),
    "current": GoalSampling.current(),
    "mixture": GoalSampling(0.2, 0.5, 0.3, gamma=0.9),
}
# A wrong distribution gives p-values of practically zero; a right one stays above this for the fixed seed.
LEAST_P_VALUE = 1e-3


@pytest.mark.parametrize("name", ["geometric", "uniform"])
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_trajectory_goals_are_later_rows_of_the_same_episode(name, lengths, seed):
    batch = BatchSampler(numbered_dataset(lengths), 64, GOALS[name], seed=seed).sample()
    offsets = batch["goals"][:, 0] - batch["observations"][:, 0]
    np.testing.assert_array_equal(batch["goals"][:, 1], batch["observations"][:, 1])
    assert offsets.min() >= 1
    np.testing.assert_array_equal(batch["masks"], 1)
    np.testing.assert_array_equal(batch["rewards"], -1)


@given(lengths=LENGTHS, history=st.integers(1, 9), chunk=st.integers(1, 9), seed=st.integers(0, 99))
def test_histories_and_chunks_stay_in_their_episode(lengths, history, chunk, seed):
    dataset = numbered_dataset(lengths)
    sampler = BatchSampler(dataset, 32, history=history, chunk=chunk, next_observations=True, seed=seed)
    batch = sampler.sample()
    past = batch["observations"].reshape(32, history, 2).astype(int)
    following = batch["next_observations"].reshape(32, history, 2).astype(int)
    actions = batch["actions"].astype(int)
    row, episode = past[:, -1, 0], past[:, -1, 1]
    first, last = dataset.episode_starts[episode], dataset.episode_ends[episode]
    ages = np.arange(history - 1, -1, -1)
    # Oldest first; before the start the first observation repeats.
    np.testing.assert_array_equal(past[:, :, 0], np.maximum(row[:, None] - ages, first[:, None]))
    np.testing.assert_array_equal(following[:, :, 0], np.maximum(row[:, None] + 1 - ages, first[:, None]))
    assert (past[:, :, 1] == episode[:, None]).all()
    assert (following[:, :, 1] == episode[:, None]).all()
    # Soonest first; beyond the end the last action that led somewhere repeats.
    np.testing.assert_array_equal(actions, np.minimum(row[:, None] + np.arange(chunk), last[:, None] - 1))


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_geometric_goals_follow_the_clipped_geometric_distribution(gamma):
    length = 12
    dataset = numbered_dataset([length] * 3)
    generator = np.random.default_rng(0)
    rows = np.zeros(20_000, dtype=int)
    offsets = GoalSampling.geometric(gamma).sample_rows(generator, dataset, rows, np.zeros_like(rows)) - rows
    probabilities = stats.geom.pmf(np.arange(1, length + 1), 1 - gamma)
    # What lies beyond the episode's last row is clipped to it.
    probabilities[-1] += stats.geom.sf(length, 1 - gamma)
    counts = np.bincount(offsets, minlength=length + 1)[1:]
    assert counts.sum() == len(rows)
    kept = probabilities * len(rows) > 5
    merged = [np.append(values[kept], values[~kept].sum()) for values in (counts, probabilities * len(rows))]
    observed, expected = (values[merged[1] > 0] for values in merged)
    assert stats.chisquare(observed, expected).pvalue > LEAST_P_VALUE


def test_uniform_goals_are_uniform_over_all_later_rows():
    dataset = numbered_dataset([9, 5])
    rows = np.full(20_000, 12)
    goals = GoalSampling.uniform().sample_rows(np.random.default_rng(1), dataset, rows, np.ones_like(rows))
    # Rows 10 to 15 are the second episode.
    np.testing.assert_array_equal(np.unique(goals), [13, 14, 15])
    assert stats.chisquare(np.bincount(goals)[13:]).pvalue > LEAST_P_VALUE


def test_random_goals_and_transitions_are_uniform():
    dataset = numbered_dataset([3, 0, 4, 2])
    batch = BatchSampler(dataset, 20_000, GoalSampling.random(), seed=2).sample()
    transitions = dataset.regular()["observations"][:, 0].astype(int)
    for key in ("observations", "goals"):
        rows, counts = np.unique(batch[key][:, 0].astype(int), return_counts=True)
        np.testing.assert_array_equal(rows, transitions)
        assert stats.chisquare(counts).pvalue > LEAST_P_VALUE


def test_mixture_has_its_shares_and_masks_mark_reached_goals():
    # One transition per episode: a trajectory goal is the next row, a random goal almost never the current one.
    dataset = numbered_dataset([1] * 5000)
    batch = BatchSampler(dataset, 20_000, GoalSampling(0.2, 0.5, 0.3, gamma=0.9), seed=3).sample()
    offsets = batch["goals"][:, 0] - batch["observations"][:, 0]
    reached = offsets == 0
    shares = np.array([reached.mean(), (offsets == 1).mean()])
    # Five standard errors of a share of 20,000 draws.
    assert (abs(shares - [0.2, 0.5]) < 5 * np.sqrt(0.25 / 20_000)).all()
    np.testing.assert_array_equal(batch["masks"], 1 - reached)
    np.testing.assert_array_equal(batch["rewards"], reached - 1.0)


def test_current_goals_and_positive_rewards():
    goals = GoalSampling(p_current=1.0, p_trajectory=0.0, negative_rewards=False)
    batch = BatchSampler(numbered_dataset([4]), 8, goals).sample()
    np.testing.assert_array_equal(batch["goals"], batch["observations"])
    np.testing.assert_array_equal(batch["rewards"], 1)
    np.testing.assert_array_equal(batch["masks"], 0)


@pytest.mark.parametrize("name", GOALS)
def test_batches_are_float32_and_hold_only_what_was_asked_for(name):
    dataset = numbered_dataset([5, 5], observation_size=3, action_size=2)
    plain = BatchSampler(dataset, 4, history=2, chunk=3).sample()
    assert {key: array.shape for key, array in plain.items()} == {"observations": (4, 6), "actions": (4, 6)}
    batch = BatchSampler(dataset, 4, GOALS[name], next_observations=True).sample()
    assert set(batch) == {"observations", "actions", "next_observations", "goals", "rewards", "masks"}
    assert {array.dtype for array in (*plain.values(), *batch.values())} == {np.dtype(np.float32)}


def test_rewards_of_the_dataset_are_used_without_goals():
    columns = {"rewards": np.arange(6.0), "masks": np.arange(6) % 2}
    dataset = TransitionDataset(np.arange(12.0).reshape(6, 2), np.zeros((6, 1)), [0, 0, 1, 0, 0, 1], **columns)
    batch = BatchSampler(dataset, 32).sample()
    row = batch["observations"][:, 0] / 2
    np.testing.assert_array_equal(batch["rewards"], row)
    np.testing.assert_array_equal(batch["masks"], row % 2)


@pytest.mark.parametrize("name", GOALS)
def test_state_resumes_bit_identically_through_json(name):
    dataset = numbered_dataset([7, 3, 9])
    sampler = BatchSampler(dataset, 16, GOALS[name], history=2, chunk=2, seed=5)
    for _ in range(3):
        sampler.sample()
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.sample() for _ in range(3)]
    resumed = BatchSampler(dataset, 16, GOALS[name], history=2, chunk=2, seed=99)
    resumed.load_state_dict(state)
    for batch in expected:
        for key, array in resumed.sample().items():
            np.testing.assert_array_equal(array, batch[key])


def test_seeds_decide_and_several_numbers_are_one_seed():
    dataset = numbered_dataset([50])

    def draw(seed):
        return BatchSampler(dataset, 32, seed=seed).sample()["actions"].tobytes()

    assert draw(1) == draw(1)
    assert len({draw(1), draw(2), draw((1, 1)), draw((1, 2))}) == 4


def test_batches_are_copies_of_read_only_data():
    dataset = numbered_dataset([5])
    dataset.observations.flags.writeable = False
    batch = BatchSampler(dataset, 4, GoalSampling.uniform()).sample()
    assert all(array.flags.writeable for array in batch.values())


@pytest.mark.parametrize("argument", ["batch_size", "history", "chunk", "subgoal_steps"])
def test_sizes_below_one_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        BatchSampler(numbered_dataset([2]), **{"batch_size": 4, argument: 0})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"p_current": 0.5}, "sum to 1"),
        ({"p_current": -0.5, "p_trajectory": 1.5}, "sum to 1"),
        ({"gamma": 1.0}, r"gamma must lie in \[0, 1\)"),
        ({"gamma": float("nan")}, "gamma"),
    ],
)
def test_bad_goal_sampling_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        GoalSampling(**arguments)


@pytest.mark.parametrize("state", [{}, {"generator": 3}, {"generator": {"bit_generator": "MT19937"}}])
def test_foreign_state_is_refused(state):
    with pytest.raises(ValueError, match="state_dict"):
        BatchSampler(numbered_dataset([2]), 4).load_state_dict(state)
