"""The device's sampler: the distributions and borders of the host's, with random numbers of its own."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.dataset_fixture import numbered_dataset

from nfkern.algorithms.data import BatchSampler, DeviceBatchSampler, DeviceDataset, GoalSampling
from nfkern.errors import UserError

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


def make_sampler(lengths, batch_size, goals=None, **options):
    return DeviceBatchSampler(DeviceDataset(numbered_dataset(lengths), "cpu"), batch_size, goals, **options)


def sample(*args, **options):
    return {key: tensor.numpy() for key, tensor in make_sampler(*args, **options).sample().items()}


@pytest.mark.parametrize("name", ["geometric", "uniform"])
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_trajectory_goals_are_later_rows_of_the_same_episode(name, lengths, seed):
    batch = sample(lengths, 64, GOALS[name], seed=seed)
    np.testing.assert_array_equal(batch["goals"][:, 1], batch["observations"][:, 1])
    assert (batch["goals"][:, 0] - batch["observations"][:, 0]).min() >= 1
    np.testing.assert_array_equal(batch["masks"], 1)
    np.testing.assert_array_equal(batch["rewards"], -1)


@given(lengths=LENGTHS, history=st.integers(1, 9), chunk=st.integers(1, 9), seed=st.integers(0, 99))
def test_histories_and_chunks_stay_in_their_episode(lengths, history, chunk, seed):
    dataset = numbered_dataset(lengths)
    batch = sample(lengths, 32, history=history, chunk=chunk, seed=seed)
    past = batch["observations"].reshape(32, history, 2).astype(int)
    row, episode = past[:, -1, 0], past[:, -1, 1]
    first, last = dataset.episode_starts[episode], dataset.episode_ends[episode]
    np.testing.assert_array_equal(past[:, :, 0], np.maximum(row[:, None] - np.arange(history)[::-1], first[:, None]))
    assert (past[:, :, 1] == episode[:, None]).all()
    expected = np.minimum(row[:, None] + np.arange(chunk), last[:, None] - 1)
    np.testing.assert_array_equal(batch["actions"].astype(int), expected)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_geometric_goals_follow_the_clipped_geometric_distribution(gamma, start):
    length = 12
    batch = sample([length] * 3, 200_000, GoalSampling.geometric(gamma))
    here = batch["observations"][:, 0] % (length + 1) == start
    offsets = (batch["goals"] - batch["observations"])[here, 0].astype(int)
    probabilities = stats.geom.pmf(np.arange(1, length - start + 1), 1 - gamma)
    # What lies beyond the episode's last row is clipped to it.
    probabilities[-1] += stats.geom.sf(length - start, 1 - gamma)
    assert (probabilities * len(offsets) > 2).all()
    counts = np.bincount(offsets, minlength=length - start + 1)[1:]
    assert stats.chisquare(counts, probabilities * len(offsets)).pvalue > LEAST_P_VALUE


def test_without_a_future_to_discount_every_goal_is_the_next_row():
    batch = sample([5, 1], 64, GoalSampling.geometric(0.0))
    np.testing.assert_array_equal(batch["goals"][:, 0] - batch["observations"][:, 0], 1)


def test_uniform_goals_are_uniform_over_all_later_rows():
    batch = sample([9, 5], 200_000, GoalSampling.uniform(), seed=1)
    goals = batch["goals"][batch["observations"][:, 0] == 12, 0].astype(int)
    # Rows 10 to 15 are the second episode.
    np.testing.assert_array_equal(np.unique(goals), [13, 14, 15])
    assert stats.chisquare(np.bincount(goals)[13:]).pvalue > LEAST_P_VALUE


def test_random_goals_and_transitions_are_uniform():
    transitions = numbered_dataset([3, 0, 4, 2]).regular()["observations"][:, 0].astype(int)
    batch = sample([3, 0, 4, 2], 20_000, GoalSampling.random(), seed=2)
    for key in ("observations", "goals"):
        rows, counts = np.unique(batch[key][:, 0].astype(int), return_counts=True)
        np.testing.assert_array_equal(rows, transitions)
        assert stats.chisquare(counts).pvalue > LEAST_P_VALUE
    assert abs(np.corrcoef(batch["observations"][:, 0], batch["goals"][:, 0])[0, 1]) < 0.05


def test_mixture_has_its_shares_and_masks_mark_reached_goals():
    # One transition per episode: a trajectory goal is the next row, a random goal almost never the current one.
    batch = sample([1] * 5000, 20_000, GOALS["mixture"], seed=3)
    offsets = batch["goals"][:, 0] - batch["observations"][:, 0]
    shares = np.array([(offsets == 0).mean(), (offsets == 1).mean()])
    # Five standard errors of a share of 20,000 draws.
    assert (abs(shares - [0.2, 0.5]) < 5 * np.sqrt(0.25 / 20_000)).all()
    np.testing.assert_array_equal(batch["masks"], offsets != 0)
    np.testing.assert_array_equal(batch["rewards"], (offsets == 0) - 1.0)


def test_the_ends_of_the_unit_interval_stay_inside():
    sampler = make_sampler([3, 1], 2, GOALS["mixture"], history=2, chunk=2)
    batch = sampler.batch(torch.tensor([[0.0, 1 - 2.0**-53]], dtype=torch.float64).expand(4, 2))
    np.testing.assert_array_equal(batch["observations"][:, 2], [0, 4])
    assert batch["goals"][:, 0].tolist() == [0, 4]


@pytest.mark.parametrize("name", [None, *GOALS])
def test_batches_have_the_hosts_keys_and_shapes(name):
    goals = GOALS.get(name)
    host = BatchSampler(numbered_dataset([5, 5], 3, 2), 4, goals, history=2, chunk=3).sample()
    data = DeviceDataset(numbered_dataset([5, 5], 3, 2), "cpu")
    mine = DeviceBatchSampler(data, 4, goals, history=2, chunk=3).sample()
    assert {key: (tensor.shape, tensor.numpy().dtype) for key, tensor in mine.items()} == {
        key: (array.shape, array.dtype) for key, array in host.items()
    }


@pytest.mark.parametrize("name", [None, "geometric", "mixture"])
def test_stacked_batches_are_each_seeds_own(name):
    data = DeviceDataset(numbered_dataset([7, 3, 9]), "cpu")
    alone, together = (
        [DeviceBatchSampler(data, 8, GOALS.get(name), history=2, chunk=3, seed=(seed, 0)) for seed in range(3)]
        for _ in range(2)
    )
    stacked = together[0].batch(torch.stack([sampler.draw() for sampler in together]))
    for seed, sampler in enumerate(alone):
        for key, tensor in sampler.sample().items():
            assert torch.equal(stacked[key][seed], tensor)


def test_state_resumes_bit_identically_through_json():
    sampler = make_sampler([7, 3, 9], 16, GOALS["mixture"], history=2, chunk=2, seed=5)
    sampler.sample()
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.sample() for _ in range(3)]
    resumed = make_sampler([7, 3, 9], 16, GOALS["mixture"], history=2, chunk=2, seed=99)
    resumed.load_state_dict(state)
    for batch in expected:
        for key, tensor in resumed.sample().items():
            assert torch.equal(tensor, batch[key])


def test_seeds_decide_and_several_numbers_are_one_seed():
    draws = [make_sampler([50], 32, seed=seed).draw() for seed in (1, 1, 2, (1, 1), (1, 2))]
    assert torch.equal(draws[0], draws[1])
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 4


@pytest.mark.parametrize("state", [{}, {"device_generator": "cuda", "state": ""}])
def test_foreign_state_is_refused(state):
    with pytest.raises(ValueError, match=r"DeviceBatchSampler.state_dict on cpu"):
        make_sampler([2], 4).load_state_dict(state)


def test_states_of_host_and_device_do_not_mix():
    host, device = BatchSampler(numbered_dataset([2]), 4), make_sampler([2], 4)
    for mine, other in ((host, device), (device, host)):
        with pytest.raises(ValueError, match="state_dict"):
            mine.load_state_dict(other.state_dict())


@pytest.mark.parametrize("argument", ["batch_size", "history", "chunk", "subgoal_steps"])
def test_sizes_below_one_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        make_sampler([2], **{"batch_size": 4, argument: 0})


def test_data_that_do_not_fit_are_named(monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError

    dataset = numbered_dataset([2])
    monkeypatch.setattr(torch, "tensor", full)
    with pytest.raises(UserError, match="numbered does not fit into the memory of cpu: use --no-cuda-graph"):
        DeviceDataset(dataset, "cpu")


@given(lengths=LENGTHS, history=st.integers(1, 4), seed=st.integers(0, 99))
def test_what_follows_is_the_next_row_of_host_and_device(lengths, history, seed):
    dataset = numbered_dataset(lengths)
    rows = np.arange(len(dataset.observations), dtype=np.float32)
    dataset = dataset.with_rewards(-rows, rows % 2)
    options = {"history": history, "next_observations": True, "next_actions": True, "seed": seed}
    options["actor_goals"] = GoalSampling.uniform()
    device = DeviceBatchSampler(DeviceDataset(dataset, "cpu"), 32, **options).sample()
    for batch in ({key: each.numpy() for key, each in device.items()}, BatchSampler(dataset, 32, **options).sample()):
        past, following = (
            batch[key].reshape(32, history, 2).astype(int) for key in ("observations", "next_observations")
        )
        row, episode = past[:, -1, 0], past[:, -1, 1]
        np.testing.assert_array_equal(following[:, -1], past[:, -1] + [1, 0])
        # An older observation is the one that was current before, or the first where there was none.
        np.testing.assert_array_equal(following[:, :-1], past[:, 1:])
        assert (following[:, :, 0] >= dataset.episode_starts[episode][:, None]).all()
        np.testing.assert_array_equal(batch["next_actions"][:, 0], row + 1)
        np.testing.assert_array_equal(batch["actor_goals"][:, 1], episode)
        assert (batch["actor_goals"][:, 0] > row).all()
        np.testing.assert_array_equal(batch["rewards"], -row)
        np.testing.assert_array_equal(batch["masks"], row % 2)


def test_goals_of_critics_and_policy_are_drawn_apart():
    dataset = numbered_dataset([400])
    options = {"goals": GoalSampling.current(), "actor_goals": GoalSampling.uniform(), "seed": 0}
    device = DeviceBatchSampler(DeviceDataset(dataset, "cpu"), 4000, **options).sample()
    for batch in ({key: each.numpy() for key, each in device.items()}, BatchSampler(dataset, 4000, **options).sample()):
        row, goal, policy = batch["observations"][:, 0], batch["goals"][:, 0], batch["actor_goals"][:, 0]
        np.testing.assert_array_equal(goal, row)
        np.testing.assert_array_equal(batch["masks"], 0)
        share = (policy - row - 0.5) / (400 - row)
        assert stats.kstest(share[row < 300], "uniform").pvalue > LEAST_P_VALUE


@given(lengths=LENGTHS, steps=st.integers(1, 5), seed=st.integers(0, 99))
def test_subgoals_lie_ahead_but_not_beyond_the_goal_or_the_end(lengths, steps, seed):
    dataset = numbered_dataset(lengths)
    options = {"subgoal_steps": steps, "seed": seed, "actor_goals": GoalSampling(p_trajectory=0.5, p_random=0.5)}
    device = DeviceBatchSampler(DeviceDataset(dataset, "cpu"), 64, **options).sample()
    for batch in ({key: each.numpy() for key, each in device.items()}, BatchSampler(dataset, 64, **options).sample()):
        (row, episode), (goal, of_episode) = (batch[key].astype(int).T for key in ("observations", "actor_goals"))
        ahead = [min(here + steps, dataset.episode_ends[where]) for here, where in zip(row, episode, strict=True)]
        np.testing.assert_array_equal(batch["subgoals"], np.stack([ahead, episode], 1))
        # A goal elsewhere, or one that is behind, is on no way.
        on_the_way = (of_episode == episode) & (goal > row)
        expected = np.where(on_the_way, np.minimum(ahead, goal), ahead)
        np.testing.assert_array_equal(batch["actor_subgoals"], np.stack([expected, episode], 1))


def test_subgoals_take_no_draws():
    dataset, options = numbered_dataset([9, 7]), {"actor_goals": GoalSampling.uniform(), "seed": 3}
    for kind, data in ((BatchSampler, dataset), (DeviceBatchSampler, DeviceDataset(dataset, "cpu"))):
        plain, hierarchical = kind(data, 8, **options).sample(), kind(data, 8, subgoal_steps=2, **options).sample()
        assert set(hierarchical) == {*plain, "subgoals", "actor_subgoals"}
        for key, each in plain.items():
            np.testing.assert_array_equal(np.asarray(hierarchical[key]), np.asarray(each))
        assert set(kind(data, 8, subgoal_steps=2).sample()) == {"observations", "actions", "subgoals"}
