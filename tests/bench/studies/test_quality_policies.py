"""The policies of the study: of one size, with one recipe, and with the densities they claim."""

import math

import pytest
import torch

from nfkern.bench.core import sizes
from nfkern.bench.core.sizes import PARAMETERS_WITHIN
from nfkern.bench.studies.quality.heads import MixtureBC
from nfkern.bench.studies.quality.policies import (
    POLICIES,
    TRAININGS,
    acting_networks,
    build,
    log_density,
    recipe,
)
from nfkern.bench.studies.quality.report import DEFAULT
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.quality.study import batch_of, train

pytestmark = pytest.mark.slow

STEPS, ROWS = 4, 16


def agent_of(training, density="gaussians_25", parameters=3000, rate=1e-3):
    torch.manual_seed(0)
    for module in TRAININGS[training].requires:
        pytest.importorskip(module)
    return build(TRAININGS[training], DENSITIES[density], parameters, recipe(STEPS, ROWS, rate))


def trained(training, density="gaussians_25"):
    agent = agent_of(training, density)
    train(agent, DENSITIES[density], 0)
    return agent


@pytest.mark.parametrize("density", ["pinwheel", "chunk"])
@pytest.mark.parametrize("training", TRAININGS)
def test_acting_networks_have_as_many_parameters_as_the_study_says(training, density):
    agent = agent_of(training, density, DEFAULT.parameters)
    acting, every = TRAININGS[training].count_parameters(agent)
    assert acting == pytest.approx(DEFAULT.parameters, rel=PARAMETERS_WITHIN)
    # What acts is what was counted: without the others, the agent acts as before.
    kept = {name for name, _ in agent.networks.named_children()} & set(TRAININGS[training].acting)
    networks = acting_networks(agent)
    for name in set(dict(networks.named_children())) - kept:
        for parameter in networks[name].parameters():
            parameter.data.fill_(math.nan)
    observations = torch.zeros(3, 1, DENSITIES[density].context_size).numpy()
    assert torch.from_numpy(agent.act(observations)).isfinite().all()
    assert every == acting or training == "distilled"


def test_a_size_that_no_width_gives_is_refused():
    with pytest.raises(ValueError, match="expected 1000 within 10%; the nearest width, 1, has 700"):
        sizes.nearest_width(lambda width: 700 * width, 1000)
    assert sizes.nearest_width(lambda width: 7 * width, 1000) == 143


@pytest.mark.parametrize("training", TRAININGS)
def test_no_training_has_a_recipe_of_its_own(training):
    agent, shared = agent_of(training, rate=2e-3), recipe(STEPS, ROWS, 2e-3)
    assert {name: getattr(agent.config, name) for name in shared} == shared
    groups = agent.optimizer.param_groups
    assert {(type(agent.optimizer), group["weight_decay"]) for group in groups} == {(torch.optim.AdamW, 0)}
    assert sum(len(group["params"]) for group in groups) == len(list(agent.networks.parameters()))


def test_all_trainings_see_the_same_batches(monkeypatch):
    seen = {}
    for name in TRAININGS:
        agent, batches = agent_of(name), []
        update = agent.update
        monkeypatch.setattr(
            agent,
            "update",
            lambda batch, noise, update=update, seen=batches: (seen.append(batch), update(batch, noise)),
        )
        train(agent, DENSITIES["gaussians_25"], 3)
        seen[name] = torch.cat([torch.cat([batch["observations"], batch["actions"]], 1) for batch in batches])
    first, *others = seen.values()
    assert len(first) == STEPS * ROWS
    assert all(torch.equal(first, other) for other in others)
    other_seed = batch_of(DENSITIES["gaussians_25"], 16, torch.Generator().manual_seed(4))
    assert not torch.equal(other_seed["observations"], first[:16, :2])


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.density])
def test_densities_that_policies_tell_integrate_to_one(name):
    agent = POLICIES[name].acting_agent(trained(POLICIES[name].training))
    edge, count = 0.04, 500
    ticks = (torch.arange(count) + 0.5) * edge - edge * count / 2
    points = torch.cartesian_prod(ticks, ticks)
    mass = log_density(agent, points, torch.tensor([[0.3, -0.5]]).expand(len(points), -1)).exp().sum() * edge**2
    assert float(mass) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.density])
def test_densities_that_policies_tell_are_those_of_their_actions(name):
    """Mean log-density of the actions, which are clipped, against a Monte Carlo sum over the box they lie in."""
    agent = POLICIES[name].acting_agent(trained(POLICIES[name].training))
    contexts = torch.tensor([[0.3, -0.5]], dtype=torch.float64).expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)
    actions = torch.from_numpy(agent.act(contexts[:, None].numpy(), generator=generator)).flatten(1).double()
    low, high = agent.action_low.double(), agent.action_high.double()
    inside = ((actions > low) & (actions < high)).all(1)
    grid = low + (high - low) * torch.rand(200_000, 2, generator=generator, dtype=torch.float64)
    mass = (high - low).prod() * log_density(agent, grid, contexts[:1].expand(len(grid), -1)).exp()
    assert float(inside.double().mean()) == pytest.approx(float(mass.mean()), abs=0.02)
    expected = (mass[:, None] * grid).mean(0) / mass.mean()
    torch.testing.assert_close(actions[inside].mean(0), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(
        actions[inside].square().mean(0), (mass[:, None] * grid**2).mean(0) / mass.mean(), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if not policy.density])
def test_the_others_refuse_to_tell_a_density(name):
    agent = POLICIES[name].acting_agent(agent_of(POLICIES[name].training))
    with pytest.raises(TypeError, match="whose actions have a density"):
        log_density(agent, torch.zeros(2, 2), torch.zeros(2, 2))


def test_a_mixture_of_one_component_is_pytorchs_normal():
    agent = trained("gaussian")
    assert isinstance(agent, MixtureBC)
    x, contexts = torch.randn(5, 2), torch.randn(5, 2)
    networks = acting_networks(agent)
    _, means, raw = networks["policy"](contexts).split([1, 2, 2], 1)
    expected = torch.distributions.Normal(means, torch.nn.functional.softplus(raw) + 1e-3).log_prob(x).sum(1)
    torch.testing.assert_close(log_density(agent, x, contexts), expected.double())


def test_distillation_follows_the_teachers_euler_steps_and_leaves_it_alone():
    agent = agent_of("distilled")
    batch = batch_of(DENSITIES["gaussians_25"], 16, torch.Generator().manual_seed(0))
    loss, info = agent.loss(batch, torch.Generator().manual_seed(1))
    start = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    contexts, point = batch["observations"].float(), start
    for step in range(10):
        time = torch.full((16, 1), step / 10)
        point = point + agent.networks["velocity"](torch.cat([contexts, point, time], 1)) / 10
    student = agent.networks["policy"](torch.cat([contexts, start], 1))
    torch.testing.assert_close(info["actor/distillation"], (student - point.clamp(-1, 1)).square().mean().detach())
    teacher = list(agent.networks["velocity"].parameters())
    (loss - info["actor/imitation"]).backward(retain_graph=True)
    matching = agent_of("flow_matching")
    matching.networks["velocity"].load_state_dict(agent.networks["velocity"].state_dict())
    generator = torch.Generator().manual_seed(1)
    torch.randn(16, 2, generator=generator)
    alone, _ = matching.loss(batch, generator)
    alone.backward()
    for mine, other in zip(teacher, matching.networks["velocity"].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_act_by_their_own_settings_with_their_trainings_weights(name):
    policy, density = POLICIES[name], DENSITIES["chunk"]
    agent = trained(policy.training, "chunk")
    acting = policy.acting_agent(agent)
    assert {key: getattr(acting.config, key) for key in policy.acting} == dict(policy.acting)
    for mine, theirs in zip(acting.state_dict().values(), agent.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    contexts = density.contexts(3, torch.Generator().manual_seed(0))
    assert acting.act(contexts[:, None].numpy()).shape == (3, density.chunk, density.action_size)
