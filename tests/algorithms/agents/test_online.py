"""Online goal-conditioned RL: losses against formulas written out here, the choice of goals, and rounds of acting."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.plane import EPISODE, Plane

from nfkern.algorithms.agents.online.base import OnlineGCRL
from nfkern.algorithms.agents.online.nf_ugs import TABLES_FROM
from nfkern.algorithms.agents.registry import AGENTS, load_agent, save_agent
from nfkern.algorithms.training.collector import Collector

SMALL = {"width": 16, "layers": 2, "representation": 4, "batch_size": 32, "unroll_length": 7, "prefill_length": 15}
SMALL |= {"num_envs": 6, "updates_per_unroll": 5, "buffer_length": 200, "candidates": 12, "steps": 50}
FLOW = {"blocks": 2, "hidden": (8, 8)}
every_agent = pytest.mark.parametrize("name", [name for name, kind in AGENTS.items() if issubclass(kind, OnlineGCRL)])


def make(name, **options):
    torch.manual_seed(0)
    kind = AGENTS[name]
    batch = make_batch()
    own = {key: size for key, size in FLOW.items() if hasattr(kind.config_class, key)}
    agent = kind.create(kind.config_class(**SMALL | own | options), batch)
    if name == "nf_ugs":
        # Away from the start, where the flow depends on nothing.
        torch.nn.init.normal_(agent.networks["flow"].output_weight, std=0.3)
    return agent, agent.tensors(batch)


def make_batch(rows=32):
    rng = np.random.default_rng(0)
    sizes = {"observations": 3, "actions": 2, "goals": 2}
    return {key: rng.uniform(-1, 1, (rows, size)).astype(np.float32) for key, size in sizes.items()}


def tanh_gaussian(agent, batch):
    """The actor's distribution, by PyTorch's own parts."""
    inputs = torch.cat([batch["observations"], batch["goals"]], 1)
    mean, raw = agent.networks["actor"](inputs).chunk(2, 1)
    normal = torch.distributions.Normal(mean, (-5 + 3.5 * (raw.tanh() + 1)).exp())
    return torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform(cache_size=1))


@every_agent
def test_the_actor_maximises_value_and_entropy(name):
    agent, batch = make(name)
    agent.networks["temperature"].log_value.data.fill_(math.log(0.3))
    noise = agent.draw(batch, torch.Generator().manual_seed(0))
    info = agent(batch, noise)[1]
    distribution = tanh_gaussian(agent, batch)
    actions = (distribution.base_dist.mean + distribution.base_dist.stddev * noise[0]).tanh()
    log_prob = distribution.log_prob(actions).sum(1)
    value = agent._value(batch["observations"], actions, batch["goals"])
    torch.testing.assert_close(info["actor/loss"], (0.3 * log_prob - value).mean().detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(info["actor/entropy"], -log_prob.mean().detach(), rtol=1e-4, atol=1e-4)
    # Two numbers in an action: aimed at is an entropy of -1.
    torch.testing.assert_close(info["temperature/loss"], 0.3 * (info["actor/entropy"] + 1))


@every_agent
@pytest.mark.parametrize(("log_std", "direction"), [(-4.9, 1), (-0.2, -1)])
def test_the_temperature_rises_where_entropy_lacks_and_falls_where_it_abounds(name, log_std, direction):
    agent, batch = make(name)
    last = agent.networks["actor"][-1]
    torch.nn.init.zeros_(last.weight)
    # log_std = -5 + 3.5 (tanh(raw) + 1): nearly certain, or nearly uniform on [-1, 1].
    last.bias.data = torch.tensor([0.0, 0.0] + 2 * [math.atanh((log_std + 5) / 3.5 - 1)])
    agent(batch, agent.draw(batch, torch.Generator().manual_seed(0)))[0].backward()
    # Descent moves against the gradient.
    assert np.sign(-agent.networks["temperature"].log_value.grad.item()) == direction


@every_agent
def test_each_loss_reaches_its_own_weights(name):
    agent, batch = make(name)
    noise = agent.draw(batch, torch.Generator().manual_seed(0))
    agent(batch, noise)[0].backward()
    together = {n: p.grad.clone() for n, p in agent.named_parameters() if p.grad is not None}
    assert set(together) == {n for n, p in agent.named_parameters()}
    agent.zero_grad(set_to_none=True)
    agent._critic_loss(batch, noise)[0].backward()
    for parameter_name, parameter in agent.named_parameters():
        kind = parameter_name.split(".")[1]
        assert (parameter.grad is None) == (kind in ("actor", "temperature")), parameter_name
        if parameter.grad is not None:
            # The critic learns from its own loss alone.
            torch.testing.assert_close(together[parameter_name], parameter.grad)


def test_nf_ugs_learns_the_density_of_goals_with_and_without_context():
    agent, batch = make("nf_ugs", context_dropout=0.4, goal_noise=0.2)
    noise = agent.draw(batch, torch.Generator().manual_seed(0))
    _, goal_noise, uniform = noise
    dropped = uniform[:, 0] < 0.4
    assert 0 < dropped.sum() < len(dropped)
    encoded = agent.networks["encoder"](torch.cat([batch["observations"], batch["actions"]], 1))
    goals = batch["goals"] + 0.2 * goal_noise
    flow = agent.networks["flow"]
    conditional, marginal = flow.log_prob(goals, encoded), flow.log_prob(goals, torch.zeros(1, 4))
    expected = -torch.where(dropped, marginal, conditional).mean()
    torch.testing.assert_close(agent(batch, noise)[1]["critic/loss"], expected.detach())
    assert not torch.isclose(expected, -conditional.mean())
    value = agent._value(batch["observations"], batch["actions"], goals)
    torch.testing.assert_close(value, conditional)


def test_the_density_of_goals_is_the_flows_without_context():
    agent, _ = make("nf_ugs")
    goals = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
    density = agent.log_density(goals)
    assert density.shape == (5, 7)
    expected = agent.networks["flow"].log_prob(torch.from_numpy(goals), torch.zeros(4)).detach().numpy()
    np.testing.assert_allclose(density, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match="crl has no density"):
        make("crl")[0].log_density(goals)


def test_many_goals_are_found_as_unlikely_as_they_are():
    agent, _ = make("nf_ugs")
    goals = np.random.default_rng(0).normal(size=(150, 200, 2)).astype(np.float32)
    assert goals.size > 2 * TABLES_FROM
    exact = agent.networks["flow"].log_prob(torch.from_numpy(goals), torch.zeros(4)).detach().numpy()
    density = agent.log_density(goals)
    assert (density != exact).any(), "no tables: the test shows little"
    # A table is off by 1e-4 of a block's scale, later blocks stretch that, and log p changes with |z| times it.
    reach = agent.networks["flow"].to_latent(torch.from_numpy(goals), torch.zeros(4))[0].detach().norm(dim=-1).numpy()
    bound = 2e-3 * (1 + reach)
    assert (np.abs(density - exact) <= bound).all()
    chosen = np.take_along_axis(exact, density.argmin(1)[:, None], 1)[:, 0]
    assert (chosen - exact.min(1) <= 2 * bound.max(1)).all()


def test_crl_tells_apart_which_transition_led_to_a_goal():
    agent, batch = make("crl", logsumexp_penalty=0.7)
    encoded = agent.networks["encoder"](torch.cat([batch["observations"], batch["actions"]], 1)).detach().double()
    goals = agent.networks["goal_encoder"](batch["goals"]).detach().double()
    energies = torch.stack([torch.stack([-(e - g).norm() for g in goals]) for e in encoded])
    loss = 0.0
    for k in range(32):
        loss -= torch.log_softmax(energies[:, k], 0)[k] / 32
        loss += 0.7 * torch.logsumexp(energies[k], 0) ** 2 / 32
    info = agent(batch, agent.draw(batch))[1]
    torch.testing.assert_close(info["critic/loss"].double(), loss, rtol=1e-4, atol=1e-5)
    accuracy = np.mean([int(energies[k].argmax()) == k for k in range(32)])
    assert info["critic/accuracy"].item() == pytest.approx(accuracy)
    torch.testing.assert_close(
        agent._value(batch["observations"], batch["actions"], batch["goals"]).double(), energies.diagonal()
    )


def test_four_ways_to_choose_a_goal():
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(5, 9, 2)).astype(np.float32)
    desired, starts = np.ones((5, 2), np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    chosen = {rule: make("nf_ugs", exploration=rule) for rule in ("lowest_density", "min_max", "uniform", "oracle")}
    chosen = {rule: agent.choose_goals(candidates, desired, starts) for rule, (agent, _) in chosen.items()}
    agent, _ = make("nf_ugs")
    np.testing.assert_array_equal(chosen["oracle"], desired)
    np.testing.assert_array_equal(chosen["uniform"], candidates[:, 0])
    lowest = agent.log_density(candidates).argmin(1)
    np.testing.assert_array_equal(chosen["lowest_density"], candidates[np.arange(5), lowest])
    values = np.zeros((5, 9))
    for env in range(5):
        for k in range(9):
            action = agent.act(starts[env][None, None], candidates[env, k][None])[0]
            tensors = (starts[env][None], action, candidates[env, k][None])
            values[env, k] = agent._value(*map(torch.from_numpy, tensors)).item()
    np.testing.assert_array_equal(chosen["min_max"], candidates[np.arange(5), values.argmin(1)])
    assert len({each.tobytes() for each in chosen.values()}) == 4


def test_learning_rates_and_weight_decay_of_the_paper():
    agent, _ = make("nf_ugs")
    others, critic = agent.optimizer.param_groups
    assert (others["lr"], others["weight_decay"]) == (3e-4, 0)
    assert (critic["lr"], critic["weight_decay"]) == (1e-4, 1e-6)
    assert len(critic["params"]) == len(list(agent.networks["flow"].parameters()))
    assert len(others["params"]) + len(critic["params"]) == len(list(agent.networks.parameters()))
    assert {group["lr"] for group in make("crl")[0].optimizer.param_groups} == {3e-4}


@every_agent
def test_rounds_keep_what_was_lived(name):
    agent, _ = make(name)
    rounds = Collector(agent, Plane(6), seed=3)
    rounds.prefill()
    assert (rounds.env_steps, len(rounds.buffer)) == (15 * 6, 15)
    goals = rounds.unroll()
    assert goals.shape == (6, 2)
    assert rounds.env_steps == 22 * 6
    batch = rounds.buffer.sample(500, 0.9)
    # The first two numbers of an observation are the position; a transition and its goal lie in one episode, whose
    # time the third number tells.
    time = np.round(batch["observations"][:, 2] * EPISODE)
    assert time.max() == EPISODE - 1
    # Points start in the middle: what the first row of an episode achieves is the origin.
    first = batch["observations"][time == 0]
    assert len(first)
    np.testing.assert_array_equal(first[:, :2], 0)
    assert np.abs(batch["goals"]).max() > 0


@every_agent
def test_acting_while_learning_is_a_copys_and_one_round_behind(name):
    agent, _ = make(name)
    rounds = Collector(agent, Plane(6), seed=3)
    other = Collector(make(name)[0], Plane(6), seed=3)
    for each in (rounds, other):
        each.prefill()
    with rounds.unrolling() as goals:
        assert len(rounds.buffer) == 15
        # Whatever becomes of the agent meanwhile, its copy acts.
        for parameter in agent.networks["actor"].parameters():
            parameter.data.zero_()
    np.testing.assert_array_equal(goals, other.unroll())
    assert len(rounds.buffer) == 22
    for key, value in other.buffer.state_dict().items():
        np.testing.assert_array_equal(rounds.buffer.state_dict()[key], value)
    rounds.close()


class Simulator:
    """A batch of points on tensors, the simulator that docs/nf-ugs.md wraps."""

    def __init__(self, points):
        self.plane = Plane(points)

    def reset(self, seed):
        current, _ = self.plane.reset(seed=seed)
        return torch.from_numpy(current["observation"]), torch.from_numpy(current["desired_goal"])

    def step(self, actions):
        current, _, _, over, _ = self.plane.step(actions)
        return *map(torch.from_numpy, (current["observation"], current["desired_goal"])), torch.from_numpy(over)


def test_the_wrapper_in_the_docs_can_be_learned_in():
    page = (Path(__file__).parents[3] / "docs" / "nf-ugs.md").read_text()
    names = {}
    exec(compile(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], "nf-ugs.md", "exec"), names)
    wrapped = names["OnGPU"](Simulator(6), 6, 3, 2)
    with Collector(make("crl")[0], wrapped, seed=3) as rounds, Collector(make("crl")[0], Plane(6), seed=3) as plain:
        for each in (rounds, plain):
            each.prefill()
            each.unroll()
        for key, value in plain.buffer.state_dict().items():
            np.testing.assert_array_equal(rounds.buffer.state_dict()[key], value)


def test_what_goes_wrong_while_acting_is_told():
    agent, _ = make("crl")
    plane = Plane(6)
    rounds = Collector(agent, plane, seed=3)
    rounds.prefill()
    plane.step = lambda actions: 1 / 0
    with pytest.raises(ZeroDivisionError), rounds.unrolling():
        pass


@every_agent
def test_rounds_repeat(name):
    states = []
    for _ in range(2):
        agent, _ = make(name)
        rounds = Collector(agent, Plane(6), seed=3)
        rounds.prefill()
        for _ in range(3):
            rounds.unroll()
            agent.update(rounds.buffer.sample(32, 0.9), torch.Generator().manual_seed(0))
        states.append({key: value.clone() for key, value in agent.state_dict().items()})
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@every_agent
def test_saved_agents_act_alike(name, tmp_path):
    agent, _ = make(name)
    save_agent(agent, tmp_path)
    observations, goals = np.ones((4, 1, 3), np.float32), np.zeros((4, 2), np.float32)
    np.testing.assert_array_equal(load_agent(tmp_path).act(observations, goals), agent.act(observations, goals))
    assert load_agent(tmp_path).sizes == {"observation_size": 3, "action_size": 2, "goal_size": 2}


@pytest.mark.slow
def test_nf_ugs_learns_to_reach_goals_on_a_plane():
    agent, _ = make("nf_ugs", width=64, steps=2000, learning_rate=1e-3, critic_learning_rate=1e-3, batch_size=128)
    rounds = Collector(agent, Plane(16), seed=0)
    rounds.prefill()
    for _ in range(60):
        rounds.unroll()
        for _ in range(10):
            agent.update(rounds.buffer.sample(128, 0.8))
    plane = Plane(64)
    current, _ = plane.reset(seed=9)
    plane.time[:] = 0
    first = np.linalg.norm(current["desired_goal"], axis=1)
    for _ in range(EPISODE):
        current, *_ = plane.step(agent.act(current["observation"][:, None], current["desired_goal"])[:, 0])
    distance = np.linalg.norm(current["achieved_goal"] - current["desired_goal"], axis=1)
    assert distance.mean() < 0.5 * first.mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, "gamma: expected a number in"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate: expected"),
        ({"candidates": 0}, "candidates: expected at least 1"),
        ({"buffer_length": 1}, "buffer_length: expected at least 2"),
        ({"context_dropout": 1.0}, "context_dropout: expected a number in"),
        ({"observation_normalization": "standard"}, "observation_normalization: expected none"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        make("nf_ugs", **options)
