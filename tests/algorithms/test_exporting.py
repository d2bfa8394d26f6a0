"""Exported policies act as the policies do, where nfkern is not, and are not written where they do not."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.boxes import register
from support.selected import selected
from support.small_agents import SMALL, make_agent

from nfkern.algorithms import exporting
from nfkern.algorithms.agents.imitation.gaussian_bc import GaussianBC, GaussianBCConfig
from nfkern.algorithms.agents.registry import save_agent
from nfkern.algorithms.exporting import OnnxPolicy, describe, export
from nfkern.cli import commands
from nfkern.errors import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

RANDOM = ("diffusion_bc", "diffusion_gcbc", "ifql")
"""Agents that draw random numbers on the way."""


def trained(name, **options):
    """An agent with weights that matter and units of its own."""
    agent = make_agent(name, **options)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        agent.observation_normalizer.center += 3.0
        agent.observation_normalizer.scale *= 2.0
        agent.action_normalizer.scale *= 10.0
        agent.action_low -= 4.0
        agent.action_high += 1.0
    return agent


def decisions(agent, rows):
    generator, described = np.random.default_rng(0), describe(agent)
    observations = generator.normal(3.0, 2.0, (rows, agent.history, described.observation_size)).astype(np.float32)
    goals = generator.normal(3.0, 2.0, (rows, described.goal_size)).astype(np.float32) if described.goal_size else None
    return observations, goals


@pytest.mark.slow
def test_onnx_acts_as_the_policy_for_any_number_of_rows(tmp_path):
    agent = trained("nf_gcbc", history=2, chunk=3, execute=2)
    description = export(agent, tmp_path / "policy.onnx")
    found, expected = OnnxPolicy(tmp_path / "policy.onnx"), agent.freeze()
    assert found.description == description
    for name in ("history", "chunk", "execute", "goal_conditioned"):
        assert getattr(found, name) == getattr(expected, name)
    for rows in (1, 2, 40):
        inputs = decisions(agent, rows)
        one, other = (policy.act(*inputs, torch.Generator().manual_seed(5)) for policy in (found, expected))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
        assert one.std() > 0.5
    observations, goals = decisions(agent, 2)
    with pytest.raises(ValueError, match=r"observations: expected shape \(2, 2, 3\), got \(2, 1, 3\)"):
        found.act(observations[:, :1], goals)
    with pytest.raises(ValueError, match="goals: expected an array"):
        found.act(observations)


WITHOUT_TORCH = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
described = json.loads(session.get_modelmeta().custom_metadata_map["nfkern"])
inputs = dict(np.load(sys.argv[2]))
np.save(sys.argv[3], session.run(["actions"], inputs)[0])
assert not {"torch", "nfkern"} & {*sys.modules}
print(described["noise_size"])
"""
WITHOUT_NFKERN = """
import sys
import numpy as np, torch
program = torch.export.load(sys.argv[1]).module()
inputs = [torch.from_numpy(each) for each in np.load(sys.argv[2]).values()]
np.save(sys.argv[3], program(*inputs).detach().numpy())
assert "nfkern" not in sys.modules
print(inputs[-1].shape[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("onnx", WITHOUT_TORCH), ("pt2", WITHOUT_NFKERN)])
def test_the_file_runs_where_nfkern_is_not(kind, code, tmp_path):
    agent = trained("nf_rlbc")
    export(agent, tmp_path / "policy", kind)
    observations, _ = decisions(agent, 5)
    noise = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", observations=observations, noise=noise)
    files = [tmp_path / "policy", tmp_path / "inputs.npz", tmp_path / "actions.npy"]
    # Isolated, and not in the checkout: the package must not be found by its folder.
    run = subprocess.run(
        [sys.executable, "-I", "-c", code, *files], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "2"
    with torch.no_grad():
        expected = agent.decide(torch.from_numpy(observations), None, torch.from_numpy(noise)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", selected([*SMALL], ["gaussian_bc", "hiql", *RANDOM], part="export"))
def test_every_agent_is_exported_or_refused(name, tmp_path):
    agent, path = trained(name), tmp_path / "policy.pt2"
    if name in RANDOM:
        with pytest.raises(UserError, match=f"{name} cannot be exported: it draws random numbers on the way"):
            export(agent, path, "pt2")
        assert not path.exists()
        return
    description = export(agent, path, "pt2")
    inputs = {name: torch.randn(4, *shape) for name, shape in description.inputs.items()}
    found = torch.export.load(path).module()(*inputs.values())
    noise = inputs.get("noise", torch.zeros(4, 1))
    with torch.no_grad():
        expected = agent.decide(inputs["observations"], inputs.get("goals"), noise)
    assert (found - expected).abs().quantile(0.9) < 1e-4
    described = {f"{exporting.METADATA}.json": ""}
    torch.export.load(path, extra_files=described)
    assert json.loads(described["nfkern.json"]) == dataclasses.asdict(description)


@pytest.mark.exhaustive(part="export")
def test_a_causal_flow_is_one_step_repeated(tmp_path):
    import onnx

    agent, path = trained("nf_bc_causal", chunk=3), tmp_path / "policy.onnx"
    export(agent, path)
    # A step of each block, however many tokens it takes.
    graph = onnx.load(path).graph
    assert sum(node.op_type == "Scan" for node in graph.node) == agent.config.causal_blocks
    observations, _ = decisions(agent, 3)
    generators = (torch.Generator().manual_seed(5) for _ in range(2))
    one, other = (policy.act(observations, None, next(generators)) for policy in (OnnxPolicy(path), agent))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_noise_is_an_input_though_actions_are_clipped():
    for name, expected in (("fql", 2), ("nf_bc", 2), ("gaussian_bc", 0)):
        agent = make_agent(name)
        agent.action_low += agent.action_high - agent.action_low - 1e-6
        assert describe(agent).noise_size == expected, name


@pytest.mark.exhaustive(part="export")
@pytest.mark.parametrize("name", ["nf_bc", "nf_bc_causal"])
def test_a_package_of_aotinductor(name, tmp_path):
    agent, path = trained(name), tmp_path / "policy.pt2"
    export(agent, path, "aoti")
    observations, noise = torch.randn(4, 1, 3), torch.randn(4, 2)
    found = torch._inductor.aoti_load_package(str(path))(observations, noise)
    with torch.no_grad():
        torch.testing.assert_close(found, agent.decide(observations, None, noise), rtol=0, atol=1e-4)


def test_a_policy_that_explodes_is_not_written(tmp_path):
    agent = trained("gaussian_bc")
    with torch.no_grad():
        next(agent.networks["policy"].parameters())[0] = np.nan
    with pytest.raises(UserError, match="the policy's own actions are not finite for random observations"):
        export(agent, tmp_path / "policy.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    load = exporting._LOADERS["pt2"]
    for wrong in (lambda actions: actions + 0.01, lambda actions: actions * np.nan):
        monkeypatch.setitem(exporting._LOADERS, "pt2", lambda path, w=wrong: lambda inputs: w(load(path)(inputs)))
        (tmp_path / "policy.pt2").write_text("before")
        with pytest.raises(UserError, match=r"the export's actions differ from the policy's: quantiles"):
            export(trained("gaussian_bc"), tmp_path / "policy.pt2", "pt2")
        assert [path.name for path in tmp_path.iterdir()] == ["policy.pt2"]
        assert (tmp_path / "policy.pt2").read_text() == "before"


@pytest.mark.slow
def test_a_policy_that_succeeds_succeeds_when_it_is_played(tmp_path, capsys):
    agent = GaussianBC(GaussianBCConfig(hidden=()), 4, 2)
    with torch.no_grad():
        (layer,) = (layer for layer in agent.networks["policy"].modules() if isinstance(layer, torch.nn.Linear))
        # To the target, the observation's second half.
        layer.weight.copy_(torch.eye(4)[2:])
        layer.bias.zero_()
    save_agent(agent, tmp_path)
    model = str(tmp_path / "policy.onnx")
    assert commands.main(["export", str(tmp_path), model]) == 0
    out = capsys.readouterr().out
    assert f"{model} (0.0 MB) agrees with the policy" in out
    assert "in   observations  (n, 1, 4) float32" in out
    assert "noise" not in out
    for box, expected in (("unit", "100.0%"), ("unequal", "0.0%")):
        assert commands.main(["play", model, "--env", register(box), "--episodes", "3"]) == 0
        assert f"{expected:>9}" in capsys.readouterr().out
    assert commands.main(["play", model, "--env", "pointmass-scripted-v0"]) == 2
    assert "expected observations of shape (4,), as in the data, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "{}", "{}/policy.bin"], "OUT: expected a name that ends in .onnx or .pt2, or --format, got"),
        (["export", "{}/nothing", "{}/policy.onnx"], "is no run"),
        (["play", "{}/nothing.onnx", "--env", "Reacher-v5"], "expected an ONNX file, found none"),
        (["play", __file__, "--env", "Reacher-v5"], "expected an ONNX file, and ONNX Runtime says"),
        (["play", "{}/nothing.onnx", "--env", "Reacher-v5", "--episodes", "0"], "--episodes: expected at least 1"),
    ],
)
def test_what_cannot_be_exported_or_played(words, message, tmp_path, capsys):
    assert commands.main([word.replace("{}", str(tmp_path)) for word in words]) == 2
    assert message in capsys.readouterr().err
