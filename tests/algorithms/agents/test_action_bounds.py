"""Actions keep the data's units and bounds, whatever these are."""

import numpy as np
import pytest
import torch
from support.boxes import BOXES, register, scripted
from support.selected import selected
from support.small_agents import IMITATORS, OFFLINE, OFFLINE_RL, SMALL

from nfkern.algorithms.agents.registry import AGENTS, load_agent, save_agent
from nfkern.algorithms.data import BatchSampler
from nfkern.algorithms.evaluation.evaluate import evaluate

STEPS = 300
# Those that move or denoise samples need longer.
LONGER = {"flow_steps": 1200, "sampling_steps": 2000}
# Large weights of imitation reproduce the data. Advantage-weighted agents, whose alpha is no such weight, do so anyway.
IMITATION = {"alpha": 10.0, "actor_weight": 10.0, "value_weight": 0.01, "candidates": 2}


def learned(name, dataset, steps=None, **options):
    torch.manual_seed(0)
    kind = AGENTS[name]
    if steps is None:
        steps = max((longer for key, longer in LONGER.items() if hasattr(kind.config_class, key)), default=STEPS)
    settings = SMALL[name] | {"steps": steps, "learning_rate": 3e-3, "warmup_steps": 5, "batch_size": 128}
    settings |= {key: value for key, value in IMITATION.items() if hasattr(kind.config_class, key)}
    if "sampling_steps" in settings:
        settings |= {"ema_decay": 0.99, "hidden": (64, 64)}
    config = kind.config_class(**(settings | options))
    sampler = BatchSampler(dataset, **config.batches(), seed=0)
    agent = kind.create(config, sampler.sample(), dataset.statistics())
    for _ in range(steps):
        agent.update(sampler.sample())
        agent.average()
    return agent


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IMITATORS, *OFFLINE])
def test_a_script_is_reproduced_in_a_box_of_unequal_bounds(name):
    dataset = scripted("unequal")
    agent = learned(name, dataset)
    result = evaluate(agent, register("unequal"), episodes_per_task=25, progress=False)
    assert result.success_rate > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", selected([*IMITATORS, *OFFLINE], ["nf_bc", "nf_rlbc"], part="learning"))
def test_a_script_is_reproduced_in_pixels(name):
    result = evaluate(learned(name, scripted("pixels")), register("pixels"), episodes_per_task=25, progress=False)
    assert result.success_rate > 0.8


@pytest.mark.parametrize("name", [*IMITATORS, *OFFLINE])
@pytest.mark.parametrize("box", ["unequal", "unit"])
def test_no_action_leaves_the_bounds_of_the_data(name, box):
    dataset = scripted(box, episodes=30)
    agent = learned(name, dataset, steps=1)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.mul_(30)
    rows = dataset.observations[:50, None]
    actions = agent.act(rows, rows[:, 0] if agent.goal_conditioned else None)
    actions = actions.reshape(-1, 2)
    statistics = dataset.statistics().actions
    assert (actions >= statistics.min).all()
    assert (actions <= statistics.max).all()
    # Networks out of control reach beyond them: without the bounds, the test would see it.
    touched = (actions == statistics.min) | (actions == statistics.max)
    assert touched.any()


def test_actions_are_normalised_only_where_they_leave_the_unit_box():
    config = AGENTS["nf_bc"].config_class(**SMALL["nf_bc"])
    for box, scale in (("unit", 1.0), ("pixels", 256.0)):
        dataset = scripted(box)
        agent = AGENTS["nf_bc"].create(config, BatchSampler(dataset, 2).sample(), dataset.statistics())
        np.testing.assert_allclose(agent.action_normalizer.scale, scale, rtol=0.01)


@pytest.mark.parametrize("name", ["iql", "diffusion_bc", "hiql"])
def test_agents_that_need_the_unit_box_say_so(name):
    dataset = scripted("pixels", episodes=20)
    config = AGENTS[name].config_class(**SMALL[name], action_normalization="none")
    batch = BatchSampler(dataset, **config.batches()).sample()
    with pytest.raises(ValueError, match=r"action_normalization: expected actions in \[-1, 1\] .* from 0 to 512"):
        AGENTS[name].create(config, batch, dataset.statistics())


@pytest.mark.parametrize("name", OFFLINE_RL[:2])
def test_offline_losses_do_not_depend_on_the_units(name):
    """Data in other units, normalised to the same numbers, give the same losses."""
    losses = []
    for box in ("pixels", "unequal"):
        dataset = scripted(box, episodes=20)
        agent = learned(name, dataset, steps=2)
        sampler = BatchSampler(dataset, **agent.config.batches(), seed=1)
        losses.append(agent.loss(sampler.sample(), torch.Generator().manual_seed(0))[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_bounds_are_saved_and_former_checkpoints_keep_theirs(tmp_path):
    from safetensors.torch import load_file, save_file

    dataset = scripted("pixels", episodes=20)
    agent = learned("nf_bc", dataset, steps=1)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    assert torch.equal(loaded.action_high, agent.action_high)
    assert (loaded.action_high - torch.tensor(BOXES["pixels"][1])).abs().max() < 20
    weights = load_file(tmp_path / "agent.safetensors")
    for name in ("action_low", "action_high"):
        del weights[name]
    save_file(weights, tmp_path / "agent.safetensors")
    torch.testing.assert_close(load_agent(tmp_path).action_high, agent.action_high)
