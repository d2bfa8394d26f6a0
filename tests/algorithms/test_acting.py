"""A trained policy in a loop of one's own, against the evaluator's loop."""

import numpy as np
import pytest
import torch
from support.small_agents import make_agent

from nfkern.algorithms.acting import Actor, load
from nfkern.algorithms.agents.registry import save_agent
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError

PLANNING = {"history": 3, "chunk": 4, "execute": 2}


class Counting:
    """A policy whose actions tell what it saw: the sums of its observations and goals, and a plan's position."""

    chunk, goal_conditioned = 4, True

    def __init__(self, history=3, execute=2):
        self.history, self.execute, self.decisions = history, execute, 0

    def act(self, observations, goals=None, generator=None):
        self.decisions += 1
        assert observations.shape[1] == self.history
        seen = observations.sum((1, 2)) + 1000 * goals.sum(1)
        return np.stack([seen + 0.1 * position for position in range(self.chunk)], 1)[..., None].astype(np.float32)


def test_histories_fill_and_plans_are_executed():
    actor = Actor(Counting())
    actions = [actor.act(np.array([float(k)]), np.zeros(1)) for k in range(1, 6)]
    assert [action.shape for action in actions] == [(1,)] * 5
    # The first observation fills the history; every second step decides.
    assert np.allclose(np.concatenate(actions), [3.0, 3.1, 1 + 2 + 3, 6.1, 3 + 4 + 5])
    assert actor.policy.decisions == 3
    actor.reset()
    assert np.allclose(actor.act(np.array([7.0]), np.zeros(1)), 21)


def test_several_loops_at_once():
    actor, single = Actor(Counting()), [Actor(Counting()) for _ in range(2)]
    for k in range(5):
        observations, goals = np.array([[k], [10.0 * k]]), np.array([[1.0], [2.0]])
        expected = [each.act(*pair) for each, pair in zip(single, zip(observations, goals, strict=True), strict=True)]
        np.testing.assert_array_equal(actor.act(observations, goals), expected)


@pytest.mark.parametrize("kind", ["not finite", "of another size"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_refused_observation_is_not_remembered(before, kind):
    """A dropped frame of a sensor would otherwise stand in the history for steps to come."""
    actors = [Actor(make_agent("nf_bc", history=3).freeze()) for _ in range(2)]
    good = np.ones(len(make_agent("nf_bc").observation_normalizer.center))
    bad = np.full(len(good), np.nan) if kind == "not finite" else np.ones(len(good) + 3)
    for actor in actors:
        for _ in range(before):
            actor.act(good, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="observation"):
        actors[0].act(bad)
    found, expected = (actor.act(2 * good, generator=torch.Generator().manual_seed(1)) for actor in actors)
    np.testing.assert_array_equal(found, expected)


def test_actions_are_the_callers_own():
    actor = Actor(Counting(execute=4))
    first = actor.act(np.ones((2, 1)), np.ones((2, 1)))
    first += 100
    assert (actor.act(np.ones((2, 1)), np.ones((2, 1))) < 10_000).all()


def test_what_does_not_fit_is_refused():
    actor = Actor(Counting())
    with pytest.raises(ValueError, match="goal: expected one, got None"):
        actor.act(np.ones(3))
    with pytest.raises(ValueError, match=r"observation: expected one or two dimensions, got shape \(1, 1, 3\)"):
        actor.act(np.ones((1, 1, 3)), np.ones(3))
    with pytest.raises(ValueError, match=r"goal: expected 2 as there are observations, got shape \(1, 3\)"):
        actor.act(np.ones((2, 3)), np.ones(3))
    actor.act(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"observation: expected shape \(1, 3\) as since the last reset, got \(2, 3\)"):
        actor.act(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="goal: expected None, this policy takes none, got one"):
        Actor(make_agent("nf_bc").freeze()).act(np.ones(3), np.ones(3))


@pytest.mark.parametrize("name", ["nf_bc", "nf_gcbc", "gaussian_gcbc"])
def test_a_saved_agent_acts(name, tmp_path):
    agent = make_agent(name, **PLANNING)
    save_agent(agent, tmp_path)
    actor, size = load(tmp_path), len(agent.observation_normalizer.center)
    rng, generators = np.random.default_rng(0), [torch.Generator().manual_seed(3) for _ in range(2)]
    goal = rng.normal(size=size).astype(np.float32) if agent.goal_conditioned else None
    seen = [rng.normal(size=size).astype(np.float32) for _ in range(3)]
    found = [actor.act(each, goal, generators[0]) for each in seen]
    goals = None if goal is None else goal[None]
    first = agent.freeze().act(np.repeat(seen[0][None, None], 3, 1), goals, generators[1])
    np.testing.assert_array_equal(found[:2], first[0, :2])
    second = agent.freeze().act(np.stack(seen)[None], goals, generators[1])
    np.testing.assert_array_equal(found[2], second[0, 0])


def test_prefetching_draws_from_nobodys_generator_and_decides_nothing():
    agent = make_agent("nf_bc")
    actors, generators = ([make() for _ in range(2)] for make in (lambda: Actor(agent.freeze()), torch.Generator))
    observations = np.random.default_rng(0).normal(size=(3, len(agent.observation_normalizer.center)))
    for observation in observations:
        state = torch.get_rng_state()
        actors[1].prefetch()
        assert torch.equal(torch.get_rng_state(), state)
        expected, found = (actor.act(observation, None, g) for actor, g in zip(actors, generators, strict=True))
        np.testing.assert_array_equal(found, expected)


def test_prefetching_within_a_plan_does_nothing():
    actor = Actor(Counting())
    actor.prefetch()
    actor.act(np.ones(1), np.ones(1))
    actor.prefetch()
    assert actor.policy.decisions == 1
    actor.act(np.ones(1), np.ones(1))
    actor.prefetch()
    assert actor.policy.decisions == 2


def test_an_actor_says_what_it_is(tmp_path):
    assert repr(Actor(Counting())) == "Actor(Counting, history 3, 2 of 4 actions a decision)"
    save_agent(make_agent("nf_gcbc", **PLANNING), tmp_path)
    sizes = make_agent("nf_gcbc").sizes
    seen, moved = sizes["observation_size"], sizes["action_size"]
    expected = f"observations ({seen},), goals ({seen},), actions ({moved},), history 3, 2 of 4 actions a decision"
    assert repr(load(tmp_path)) == f"Actor(nf_gcbc, {expected})"
    folder = tmp_path / "00000005"
    folder.mkdir()
    save_agent(make_agent("nf_bc"), folder)
    assert repr(load(folder)).startswith("Actor(nf_bc, step 5, observations (")


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(UserError, match=r"is no run: expected a folder with config.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        load(tmp_path / "missing")


def test_checkpoints_of_a_run(tmp_path):
    """The newest, unless one is named; a checkpoint's own folder will do."""
    agents = {step: make_agent("nf_bc", seed=step) for step in (5, 10)}
    run = Run(tmp_path)
    run.claim({"algorithm": "nf_bc", "env_name": "none", "config": {}, "seed": 0})
    for step, agent in agents.items():
        run.save_checkpoint(step, agent, {})
    observation = np.zeros(len(agents[5].observation_normalizer.center))

    def action(actor):
        return actor.act(observation, generator=torch.Generator().manual_seed(0)).tolist()

    expected = {step: action(Actor(agent.freeze())) for step, agent in agents.items()}
    assert expected[5] != expected[10]
    assert action(load(tmp_path)) == action(load(str(tmp_path), step=10)) == expected[10]
    assert action(load(tmp_path, step=5)) == action(load(run.checkpoint(5).path)) == expected[5]
    with pytest.raises(UserError, match="has no checkpoint 7; it has 5, 10"):
        load(tmp_path, step=7)


def test_a_plan_is_the_whole_decision_and_is_forgotten():
    actor = Actor(Counting())
    planned = actor.plan(np.array([1.0]), np.zeros(1))
    assert planned.shape == (4, 1)
    np.testing.assert_allclose(planned[:, 0], [3.0, 3.1, 3.2, 3.3])
    # A decision anew, with both observations in its history.
    assert np.allclose(actor.act(np.array([2.0]), np.zeros(1)), 1 + 1 + 2)


class Moving(Counting):
    """A policy without goals."""

    goal_conditioned = False

    def act(self, observations, goals=None, generator=None):
        assert goals is None
        return super().act(observations, np.zeros((len(observations), 1)), generator)


def test_acts_as_a_model_of_stable_baselines3():
    actor, other = Actor(Moving(1, 1)), Actor(Moving(1, 1))
    action, state = actor.predict(np.array([[1.0], [2.0]]), episode_start=np.array([True, False]))
    assert state is None
    np.testing.assert_array_equal(action, other.act(np.array([[1.0], [2.0]])))
    remembering = Actor(Moving())
    remembering.predict(np.array([5.0]))
    assert np.allclose(remembering.predict(np.array([1.0]), episode_start=True)[0], 3)
    with pytest.raises(ValueError, match="episode_start: expected all rows to begin together"):
        remembering.predict(np.ones((2, 1)), episode_start=np.array([True, False]))


def test_an_action_is_deterministic_only_where_none_is_drawn():
    observation = np.zeros(3)
    gaussian = Actor(make_agent("gaussian_bc").freeze())
    np.testing.assert_array_equal(gaussian.predict(observation, deterministic=True)[0], gaussian.act(observation))
    for name in ("nf_bc", "flow_matching_bc", "diffusion_bc"):
        with pytest.raises(ValueError, match="deterministic: expected False, for this policy samples its actions"):
            Actor(make_agent(name).freeze()).predict(observation, deterministic=True)


def test_acts_as_a_policy_of_lerobot():
    actor, other = Actor(Counting()), Actor(Counting())
    batch = {"observation.state": torch.tensor([[1.0], [2.0]]), "goal": torch.tensor([[1.0], [0.0]]), "task": ["", ""]}
    given = np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])
    found = actor.select_action(batch)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), other.act(*given))
    assert actor.predict_action_chunk(batch).shape == (2, 4, 1)
    with pytest.raises(ValueError, match=r"batch: expected an entry 'observation.state', got goal"):
        actor.select_action({"goal": batch["goal"]})


@pytest.mark.slow
def test_exports_what_it_was_loaded_from(tmp_path):
    pytest.importorskip("onnxruntime")
    from nfkern.algorithms.exporting import OnnxPolicy

    save_agent(make_agent("gaussian_bc"), tmp_path)
    policy = load(tmp_path)
    described = policy.export(tmp_path / "policy.onnx")
    assert described.inputs == {"observations": (1, 3)}
    rows = np.random.default_rng(0).normal(size=(4, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(OnnxPolicy(tmp_path / "policy.onnx").act(rows)[:, 0], policy.act(rows[:, 0]), atol=1e-5)
    with pytest.raises(UserError, match="expected a name that ends in .onnx or .pt2"):
        policy.export(tmp_path / "policy.bin")
    with pytest.raises(ValueError, match="expected a policy that `nfkern.load`"):
        Actor(Counting()).export(tmp_path / "policy.onnx")
