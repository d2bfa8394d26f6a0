"""Agents: they learn, act in shape, survive the disk, and refuse what does not fit."""

import io
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from support.small_agents import IMITATORS, OFFLINE, SMALL, act, make_agent, make_batch

from nfkern.algorithms.agents.registry import AGENTS, load_agent, save_agent
from nfkern.algorithms.data import ColumnStatistics, DatasetStatistics, GoalSampling
from nfkern.algorithms.runs.run import Run

every_imitator = pytest.mark.parametrize("name", [*IMITATORS, "nf_bc_causal", "nf_gcbc_causal"])
every_agent = pytest.mark.parametrize("name", [*IMITATORS, *OFFLINE, "nf_bc_causal", "nf_gcbc_causal"])


@every_imitator
def test_loss_falls_and_actions_have_their_shape(name):
    agent = make_agent(name, history=2, chunk=3, execute=2, ema_decay=0.5)
    batch = make_batch(agent.config)
    losses = [agent.update(batch)["actor/loss"].item() for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    actions = act(agent)
    assert actions.shape == (5, 3, 2)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
    assert np.array_equal(actions, act(agent))
    if "gaussian" not in name:
        assert not np.array_equal(actions, act(agent, seed=1))


@pytest.mark.slow
@every_agent
def test_goals_matter_only_to_goal_conditioned_agents(name):
    agent = make_agent(name)
    batch = make_batch(agent.config)
    for _ in range(30):
        agent.update(batch)
    observations = batch["observations"][:4].reshape(4, 1, -1)
    wrong = None if agent.goal_conditioned else batch["goals"][:4]
    with pytest.raises(ValueError, match="goals: expected"):
        agent.act(observations, wrong)
    if agent.goal_conditioned:
        here, there = (
            agent.act(observations, g, torch.Generator().manual_seed(0))
            for g in (batch["goals"][:4], -batch["goals"][:4])
        )
        assert not np.allclose(here, there)


@every_agent
def test_saved_agents_act_alike(name, tmp_path):
    agent = make_agent(name, **({} if name in OFFLINE else {"ema_decay": 0.9}))
    for _ in range(3):
        agent.update(make_batch(agent.config))
    save_agent(agent, tmp_path)
    restored = load_agent(tmp_path)
    assert restored.config == agent.config
    assert np.array_equal(act(restored), act(agent))


@every_agent
def test_a_checkpoint_continues_exactly(name, tmp_path):
    agent = make_agent(name, schedule="cosine", **({} if name in OFFLINE else {"ema_decay": 0.9}))
    batches = [make_batch(agent.config, seed=i) for i in range(12)]
    for batch in batches[:6]:
        agent.update(batch)
    Run(tmp_path).save_checkpoint(6, agent, {"train": {"at": 6}})
    straight = [agent.update(batch)["actor/loss"].item() for batch in batches[6:]]
    torch.manual_seed(123)
    checkpoint = Run(tmp_path).checkpoints()[-1]
    restored, states = checkpoint.restore(torch.device("cpu"))
    assert (checkpoint.step, states) == (6, {"train": {"at": 6}})
    assert [restored.update(batch)["actor/loss"].item() for batch in batches[6:]] == straight
    for mine, theirs in zip(agent.state_dict().values(), restored.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "rate", "share"),
    [
        ("nf_bc", 200, 1e-2, 0.8),
        ("nf_bc_causal", 400, 5e-3, 0.8),
        # After 400 steps ten Euler steps still leave some of the samples on their way between the modes.
        ("flow_matching_bc", 400, 1e-2, 0.65),
        ("diffusion_bc", 800, 1e-2, 0.75),
        ("gaussian_bc", 200, 1e-2, None),
    ],
)
def test_flows_keep_two_modes_where_the_gaussian_averages(name, steps, rate, share):
    rng = np.random.default_rng(0)
    side = rng.choice([-0.7, 0.7], size=(128, 1))
    actions = np.concatenate([side, 0.3 * np.ones_like(side)], 1) + 0.02 * rng.normal(size=(128, 2))
    batch = {"observations": np.zeros((128, 3), np.float32), "actions": actions.astype(np.float32)}
    torch.manual_seed(0)
    kind = AGENTS[name.removesuffix("_causal")]
    config = kind.config_class(
        **SMALL[name],
        steps=steps,
        observation_normalization="none",
        learning_rate=rate,
        warmup_steps=0,
        ema_decay=0.0,
    )
    agent = kind.create(config, batch)
    for _ in range(steps):
        agent.update(batch)
    samples = agent.act(np.zeros((500, 1, 3), np.float32), None, torch.Generator().manual_seed(0))[:, 0]
    if share is None:
        assert np.abs(samples[:, 0]).max() < 0.2
        return
    near = np.abs(np.abs(samples[:, 0]) - 0.7) < 0.2
    assert near.mean() > share
    assert 0.3 < (samples[near, 0] > 0).mean() < 0.7


def test_the_average_acts():
    agent = make_agent("gaussian_bc", ema_decay=0.5)
    states = []
    for _ in range(3):
        agent.update(make_batch(agent.config))
        states.append({name: value.clone() for name, value in agent.networks.state_dict().items()})
    # The first update copies; each later one moves half of the way.
    for name, value in agent.ema.module.state_dict().items():
        expected = 0.5 * (0.5 * states[0][name] + 0.5 * states[1][name]) + 0.5 * states[2][name]
        torch.testing.assert_close(value, expected)
    averaged = act(agent)
    agent.networks.load_state_dict(agent.ema.module.state_dict())
    agent.ema = None
    np.testing.assert_allclose(averaged, act(agent), rtol=1e-6)
    agent.networks.load_state_dict(states[2])
    assert not np.allclose(averaged, act(agent), rtol=1e-3)


def test_agents_can_be_sent_to_other_processes():
    agent = make_agent("nf_gcbc", ema_decay=0.5)
    buffer = io.BytesIO()
    torch.save(agent, buffer)
    buffer.seek(0)
    assert np.array_equal(act(torch.load(buffer, weights_only=False)), act(agent))


def test_flow_matching_integrates_its_velocity_by_euler_steps():
    agent = make_agent("flow_matching_bc", flow_steps=4)
    seen = []

    class Velocity(torch.nn.Module):
        def forward(self, inputs):
            seen.append(inputs[0, -1].item())
            return 0.4 * inputs[:, -1:].expand(-1, 2) + 0.1 * inputs[:, 3:5]

    agent.networks["velocity"] = Velocity()
    point = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    actions = act(agent)[:, 0]
    for step in range(4):
        point = point + (0.4 * step / 4 + 0.1 * point) / 4
    assert seen == [0, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(actions, point.clamp(-1, 1).numpy(), rtol=1e-5)


def test_every_agent_draws_the_goals_it_says():
    expected = {"nf_gcbc": 0.97, "flow_matching_gcbc": 0.97, "diffusion_gcbc": 0.97, "gaussian_gcbc": None}
    for name, gamma in expected.items():
        assert AGENTS[name].config_class().goal_sampling() == GoalSampling(gamma=gamma)
    for name in (*IMITATORS, *OFFLINE):
        if not AGENTS[name].goal_conditioned:
            assert AGENTS[name].config_class().goal_sampling() is None


@pytest.mark.parametrize("name", ["nf", "flow_matching", "diffusion"])
def test_goals_change_no_other_setting(name):
    without, with_goals = (asdict(AGENTS[f"{name}_{kind}"].config_class()) for kind in ("bc", "gcbc"))
    assert with_goals.pop("gamma") == 0.97
    different = {key for key, value in without.items() if with_goals[key] != value}
    assert different == ({"blocks", "hidden", "representation"} if name == "nf" else set())
    assert with_goals.keys() == without.keys()


def test_denoised_actions_are_samples_moved_by_the_score():
    agents = {denoise: make_agent("nf_bc", denoise=denoise) for denoise in (False, True)}
    batch = make_batch(agents[True].config)
    for agent in agents.values():
        torch.manual_seed(0)
        for _ in range(20):
            agent.update(batch)
    raw, denoised = (torch.from_numpy(act(agents[denoise])[:, 0]) for denoise in (False, True))
    flow, encoder = agents[False].networks["flow"], agents[False].networks["encoder"]
    observations = torch.from_numpy(make_batch(agents[True].config, 5)["observations"])
    context = encoder(agents[False]._conditioning(observations.unsqueeze(1), None))
    inside = raw.abs().amax(1) < 1
    expected = (raw + 0.1**2 * flow.score(raw, context)).clamp(-1, 1)
    assert inside.any()
    torch.testing.assert_close(denoised[inside], expected[inside], rtol=1e-4, atol=1e-4)


def test_schedule_is_linear_warm_up_then_cosine():
    agent = make_agent("gaussian_bc", steps=50, warmup_steps=10, schedule="cosine", final_learning_rate=1e-6)
    rates = []
    for _ in range(50):
        rates.append(agent.scheduler.get_last_lr()[0])
        agent.update(make_batch(agent.config, 4))
    np.testing.assert_allclose(rates[:10], [1e-3 * (0.1 + 0.9 * i / 10) for i in range(10)], rtol=1e-6)
    cosine = [1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * i / 40)) for i in range(40)]
    np.testing.assert_allclose(rates[10:], cosine, rtol=1e-6)
    assert agent.scheduler.get_last_lr()[0] == pytest.approx(1e-6)


def test_normalizers_come_from_the_statistics_and_act_on_each_observation():
    rng = np.random.default_rng(0)
    columns = {key: rng.normal(size=(100, size)).astype(np.float32) * 7 + 3 for key, size in (("o", 3), ("a", 2))}
    stats = DatasetStatistics(*(ColumnStatistics(c.mean(0), c.std(0), c.min(0), c.max(0)) for c in columns.values()))
    config = AGENTS["nf_gcbc"].config_class(**SMALL["nf_gcbc"], history=2, action_normalization="min_max")
    agent = AGENTS["nf_gcbc"].create(config, {"observations": np.zeros((1, 6)), "actions": np.zeros((1, 2))}, stats)
    conditioning = agent._conditioning(
        torch.from_numpy(np.stack([columns["o"], columns["o"]], 1)), torch.from_numpy(columns["o"])
    )
    torch.testing.assert_close(conditioning.mean(0), torch.zeros(9), rtol=0, atol=1e-5)
    torch.testing.assert_close(conditioning.std(0, correction=0), torch.ones(9))
    with pytest.raises(ValueError, match="statistics: expected those of the dataset for standard observations"):
        AGENTS["nf_gcbc"].create(config, {"observations": np.zeros((1, 6)), "actions": np.zeros((1, 2))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"execute": 2}, "execute: expected at most chunk=1, got 2"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number > 0"),
        ({"ema_decay": 1.0}, "ema_decay: expected a number in"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        make_agent("gaussian_bc", **options)


def test_wrong_shapes_are_named():
    agent = make_agent("gaussian_bc", history=2)
    with pytest.raises(ValueError, match=r"observations: expected shape \(4, 2, 3\), got \(4, 1, 3\)"):
        agent.act(np.zeros((4, 1, 3), np.float32))
    with pytest.raises(ValueError, match="example_batch: observations has 5 columns, no multiple of 2"):
        AGENTS["gaussian_bc"].create(agent.config, {"observations": np.zeros((1, 5)), "actions": np.zeros((1, 2))})


def test_damaged_agents_are_named(tmp_path):
    save_agent(make_agent("gaussian_bc"), tmp_path)
    header = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"format_version": 9}, "expected format_version 1, got 9"),
        ({"algorithm": "sac"}, "expected an algorithm of nf_bc"),
        ({"sizes": {"observation_size": 4, "action_size": 2}}, "do not fit"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(header | change))
        with pytest.raises(ValueError, match=message):
            load_agent(tmp_path)


def test_presets_are_the_papers():
    paper = AGENTS["nf_gcbc"].presets["paper"].config
    assert (paper.blocks, paper.hidden, paper.norm_eps) == (6, (320, 256), 1e-6)
    assert (paper.representation, paper.encoder_width, paper.noise_std, paper.gamma) == (64, 512, 0.1, 0.97)
    assert (paper.learning_rate, paper.final_learning_rate, paper.warmup_steps) == (3e-4, 1e-6, 500)
    assert (paper.weight_decay, paper.batch_size, paper.steps) == (1e-6, 256, 1_000_000)
    assert paper.observation_normalization == paper.action_normalization == "none"
    assert AGENTS["gaussian_gcbc"].presets["ogbench"].config.batch_size == 1024
    for agent in AGENTS.values():
        for preset in agent.presets.values():
            assert type(preset.config) is agent.config_class
            assert preset.source


def test_a_causal_flow_over_one_action_is_refused():
    with pytest.raises(
        ValueError, match="chunk: expected more than one action for a causal flow.*, got 1 of 2 numbers"
    ):
        make_agent("nf_bc_causal", causal_token="action")


def test_a_causal_flow_takes_actions_in_turn():
    agent = make_agent("nf_bc_causal", causal_token="action", chunk=3, execute=2)
    assert agent.networks["flow"].event_shape == (3, 2)
    assert act(agent).shape == (5, 3, 2)
