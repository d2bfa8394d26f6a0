"""The buffer of what was lived: nothing crosses an episode's end, and goals follow the stated distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nfkern.algorithms.data.replay import TrajectoryBuffer


def fill(lengths, length=1000, seed=0):
    """A buffer of environments whose episodes have these numbers of rows; each row says where and when it was.

    Observations are (row, env), achieved goals (row, env, episode), actions (row,); rows count from the first ever.
    """
    total = min(sum(each) for each in lengths)
    buffer = TrajectoryBuffer(len(lengths), length, 2, 1, 3, seed=seed)
    ends = [np.cumsum(each) - 1 for each in lengths]
    for row in range(total):
        envs = np.arange(len(lengths))
        episodes = np.array([np.searchsorted(each, row) for each in ends])
        observations = np.stack([np.full(len(envs), row), envs], 1)
        achieved = np.concatenate([observations, episodes[:, None]], 1)
        last = np.array([row in each for each in ends])
        buffer.add(observations, achieved, observations[:, :1], last)
    return buffer


EPISODES = st.lists(st.integers(1, 7), min_size=3, max_size=8)


@given(lengths=st.lists(EPISODES, min_size=1, max_size=3), length=st.integers(4, 40), seed=st.integers(0, 9))
def test_goals_are_later_rows_of_the_same_episode(lengths, length, seed):
    # A first long episode, so that there always is a transition.
    lengths = [[9, *each] for each in lengths]
    buffer = fill(lengths, length, seed)
    total = buffer.added
    try:
        batch = buffer.sample(64, 0.8)
    except ValueError:
        # Only episodes of one row are left.
        ends = [set(np.cumsum(each) - 1) | {total - 1} for each in lengths]
        assert all(set(range(total - len(buffer), total)) <= each for each in ends)
        return
    row, env = batch["observations"].T.astype(int)
    goal_row, goal_env, goal_episode = batch["goals"].T.astype(int)
    np.testing.assert_array_equal(batch["actions"][:, 0], row)
    np.testing.assert_array_equal(goal_env, env)
    assert (goal_row > row).all()
    assert (row >= total - len(buffer)).all()
    assert len(buffer) == min(total, length)
    episode = [np.searchsorted(np.cumsum(lengths[e]) - 1, r) for r, e in zip(row, env, strict=True)]
    np.testing.assert_array_equal(goal_episode, episode)


def test_transitions_are_equally_likely_and_last_rows_begin_none():
    buffer = fill([[4, 3, 8], [5, 10]])
    batch = buffer.sample(30_000, 0.9)
    # Of the 15 rows of each environment, the last of each episode begins nothing; the newest is one of them.
    starts = [[0, 1, 2, 4, 5, *range(7, 14)], [0, 1, 2, 3, *range(5, 14)]]
    expected = {(row, env) for env, rows in enumerate(starts) for row in rows}
    found, counts = np.unique(batch["observations"].astype(int), axis=0, return_counts=True)
    assert set(map(tuple, found.tolist())) == expected
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_goals_follow_the_geometric_distribution_within_the_episode(gamma):
    buffer = fill([[6, 30]])
    batch = buffer.sample(60_000, gamma)
    row, goal_row = batch["observations"][:, 0].astype(int), batch["goals"][:, 0].astype(int)
    offsets = (goal_row - row)[row == 1]
    weights = gamma ** np.arange(1, 5)
    counts = np.bincount(offsets, minlength=5)[1:]
    assert len(counts) == 4
    assert stats.chisquare(counts, weights / weights.sum() * counts.sum()).pvalue > 1e-3


def test_an_episode_that_lasts_ends_at_the_newest_row():
    buffer = fill([[3, 100]])
    assert buffer.added == 103
    unfinished = TrajectoryBuffer(1, 50, 1, 1, 1)
    for row in range(8):
        unfinished.add(np.full((1, 1), row), np.full((1, 1), row), np.zeros((1, 1)), np.zeros(1, bool))
    batch = unfinished.sample(500, 0.99)
    assert batch["observations"].max() == 6
    assert batch["goals"].max() == 7


def test_goals_alone_have_the_same_distribution():
    buffer = fill([[6, 30]])
    together = buffer.sample(40_000, 0.9)["goals"][:, 0]
    alone = buffer.sample_goals(40_000, 0.9)[:, 0]
    assert stats.ks_2samp(together, alone).pvalue > 1e-3


def test_newest_achieved_goals():
    buffer = fill([[40], [40]], length=16)
    np.testing.assert_array_equal(buffer.achieved(2)[:, :2], [[38, 0], [38, 1], [39, 0], [39, 1]])
    assert len(buffer.achieved()) == len(buffer.achieved(999)) == 32


@pytest.mark.parametrize("length", [12, 1000])
def test_a_restored_buffer_goes_on_with_new_episodes(length):
    buffer = fill([[5, 9, 6], [14, 6]], length)
    for _ in range(3):
        buffer.add(np.full((2, 2), 20), np.full((2, 3), 99), np.zeros((2, 1)), np.zeros(2, bool))
    restored = TrajectoryBuffer(2, length, 2, 1, 3)
    restored.load_state_dict(buffer.state_dict())
    assert (len(restored), restored.added) == (len(buffer), 23)
    np.testing.assert_array_equal(restored.achieved(), buffer.achieved())
    for _ in range(4):
        restored.add(np.full((2, 2), -7), np.full((2, 3), 77), np.zeros((2, 1)), np.zeros(2, bool))
    batch = restored.sample(2000, 0.9)
    # Nobody saw how the interrupted episodes went on: their rows lead to none of the new ones.
    assert (batch["goals"][batch["observations"][:, 0] == 20] == 99).all()
    assert (batch["goals"][batch["observations"][:, 0] == -7] == 77).all()
    with pytest.raises(ValueError, match="state: expected observations"):
        TrajectoryBuffer(2, length, 5, 1, 3).load_state_dict(buffer.state_dict())


def test_bad_sizes_and_an_empty_buffer():
    with pytest.raises(ValueError, match="length: expected at least 2, got 1"):
        TrajectoryBuffer(1, 1, 2, 1, 3)
    with pytest.raises(ValueError, match="goal_size: expected at least 1, got 0"):
        TrajectoryBuffer(1, 10, 2, 1, 0)
    buffer = TrajectoryBuffer(1, 10, 1, 1, 1)
    buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1, bool))
    with pytest.raises(ValueError, match="no transition to sample"):
        buffer.sample(4, 0.9)
