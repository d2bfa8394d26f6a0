"""QRL against formulas written out here, with known latents and distances."""

import math

import pytest
import torch
from support.critics import ROWS, Fixed, reached_by
from support.small_agents import make_agent, make_batch

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import GoalSampling


def apart(x, y):
    """A distance that depends on the direction."""
    return (y - x).clamp(min=0).sum(-1) + 0.5 * (x - y).clamp(min=0).sum(-1)


def prepare(**options):
    """An agent whose latents are observations, three times as long, and whose model adds half of the action."""
    agent = make_agent("qrl", **options)
    agent.networks["encoder"] = Fixed(lambda inputs: 3 * inputs)
    agent.networks["distance"] = Fixed(apart)
    agent.networks["dynamics"] = Fixed(lambda inputs: 0.5 * torch.cat([inputs[:, 3:], inputs[:, 3:4]], 1))
    agent.networks["policy"] = Fixed(lambda inputs: 0.9 * inputs[:, :2] - 0.4 * inputs[:, 3:5])
    torch.nn.init.constant_(agent.networks["multiplier"].log_value, math.log(2.5))
    batch = agent.tensors(make_batch(agent.config, ROWS))
    return agent, batch


def test_distances_grow_while_steps_stay_short():
    agent, batch = prepare(violation=0.2)
    info = agent(batch, ())[1]
    here, following, goals = (3 * batch[key] for key in ("observations", "next_observations", "goals"))
    # The shaping of OGBench's code, as it is written there in other words.
    fading = 100 * torch.log1p(torch.exp(5 - apart(here, goals) / 100))
    excess = (apart(here, following) - 1).clamp(min=0).square().mean()
    torch.testing.assert_close(info["value/loss"], fading.mean() + 2.5 * excess)
    torch.testing.assert_close(info["value/violation"], excess)
    torch.testing.assert_close(info["multiplier/loss"], 2.5 * (0.2 - excess))
    assert excess > 0.2


def test_the_model_predicts_the_next_latent_there_and_back():
    agent, batch = prepare()
    here, following = 3 * batch["observations"], 3 * batch["next_observations"]
    predicted = here + 0.5 * torch.cat([batch["actions"], batch["actions"][:, :1]], 1)
    expected = (apart(following, predicted) + apart(predicted, following)).mean() / 2
    torch.testing.assert_close(agent(batch, ())[1]["dynamics/loss"], expected)


def test_the_policy_moves_its_predicted_latent_towards_its_own_goal():
    agent, batch = prepare(alpha=0.4)
    scale = torch.ones((), requires_grad=True)
    mean = scale * (0.9 * batch["observations"][:, :2] - 0.4 * batch["actor_goals"][:, :2])
    assert (mean.abs() > 1).any()
    action = mean.clamp(-1, 1)
    predicted = 3 * batch["observations"] + 0.5 * torch.cat([action, action[:, :1]], 1)
    q = -apart(predicted, 3 * batch["actor_goals"])
    density = torch.distributions.Normal(mean, 1.0).log_prob(batch["actions"]).sum(1).mean()
    expected = -q.mean() / q.detach().abs().mean() - 0.4 * density
    loss = agent._losses(batch)["actor"][0]
    torch.testing.assert_close(loss, expected)
    # Distances divided by their size are 1 on average: only the gradient tells one from another.
    expected.backward()
    loss.backward()
    torch.testing.assert_close(agent.networks["policy"].weight.grad, scale.grad)


def test_each_part_reaches_its_own_networks():
    agent = make_agent("qrl")
    parts = agent._losses(agent.tensors(make_batch(agent.config)))
    reached = {name: reached_by(loss, agent) for name, (loss, _) in parts.items()}
    assert reached == {
        "value": {"encoder", "distance"},
        "multiplier": {"multiplier"},
        "dynamics": {"encoder", "distance", "dynamics"},
        "actor": {"policy"},
    }


@pytest.mark.parametrize(("violation", "grows"), [(0.0, True), (1e6, False)])
def test_the_multiplier_grows_while_steps_are_too_long(violation, grows):
    agent = make_agent("qrl", violation=violation)
    # Another scale for latents, so that steps are longer than 1 from the start.
    agent.networks["encoder"][-1].weight.data.mul_(30)
    for _ in range(5):
        agent.update(make_batch(agent.config))
    assert (agent.networks["multiplier"]().item() > 1) == grows


def test_a_wish_for_distance_moves_goals_away():
    agent = make_agent("qrl", violation=1e6, learning_rate=3e-3)
    batch = make_batch(agent.config) | {"next_observations": make_batch(agent.config)["observations"]}
    distances = [agent.update(batch)["value/distance"].item() for _ in range(20)]
    assert distances[-1] > 2 * distances[0]


def test_goals_and_settings():
    batches = make_agent("qrl", actor_random_goals=0.25).config.batches()
    assert batches["goals"] == GoalSampling(p_trajectory=0.0, p_random=1.0)
    assert batches["actor_goals"] == GoalSampling(p_trajectory=0.75, p_random=0.25)
    for options, message in (
        ({"representation": 12}, "representation: expected a multiple of 8, got 12"),
        ({"representation": 0}, "representation: expected at least 8"),
        ({"alpha": -1.0}, "alpha: expected at least 0"),
        ({"violation": -1.0}, "violation: expected at least 0"),
        ({"actor_random_goals": -0.5}, "actor_random_goals: expected at least 0"),
        ({"action_normalization": "standard"}, "action_normalization: offline RL expects"),
    ):
        with pytest.raises(ValueError, match=message):
            make_agent("qrl", **options)


def test_presets_are_ogbenchs():
    alphas = {name: preset.config.alpha for name, preset in AGENTS["qrl"].presets.items()}
    assert alphas["pointmaze-medium-navigate"] == 0.0003
    assert alphas["antmaze-medium-stitch"] == alphas["antsoccer-arena-navigate"] == 0.003
    assert alphas["humanoidmaze-medium-navigate"] == 0.001
    assert alphas["cube-double-play"] == alphas["puzzle-3x3-play"] == alphas["scene-play"] == 0.3
    stitch = AGENTS["qrl"].presets["antmaze-medium-stitch"].config
    assert (stitch.actor_random_goals, stitch.batch_size, stitch.representation, stitch.violation) == (
        0.5,
        1024,
        512,
        0.05,
    )
    assert stitch.observation_normalization == "none"
