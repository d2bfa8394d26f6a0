"""The examples with other libraries train in a process of their own, and assert that they have learned."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "examples"
NEEDS = {
    "lightning_bc": "lightning",
    "offline_to_online_sac": "gymnasium",
    "sb3_sac": "stable_baselines3",
    "skrl_sac": "skrl",
    "torchrl_ppo": "torchrl",
    "torchrl_sac": "torchrl",
}


@pytest.mark.exhaustive(part="plugs")
@pytest.mark.parametrize("name", NEEDS)
def test_it_learns(name, tmp_path):
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}: see `make plugs`")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # No logs and no checkpoints are left behind.
    assert not list(tmp_path.iterdir())


def test_every_example_is_tested_short_and_named_in_the_guide():
    found = {path.stem: path.read_text() for path in FOLDER.glob("*.py")}
    assert found.keys() == {*NEEDS, "reach"}
    guide = (ROOT / "docs" / "flows.md").read_text()
    for name, text in found.items():
        assert len(text.splitlines()) <= 80, name
        assert name == "reach" or f"examples/{name}.py" in guide
        compile(text, name, "exec")
        assert name == "reach" or "\nassert " in text
