"""Calls straight to the ops with one argument spoiled: an error that names it, never a crash or a wrong number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.selected import exhaustive

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize(("calls", "seed"), [(500, 0), exhaustive((10_000, 1), part="sweeps")])
def test_every_spoiled_call_is_refused_or_right(calls, seed):
    run = subprocess.run(
        [sys.executable, "-m", "support.hostile_calls", str(calls), str(seed)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=calls,
        check=False,
    )
    assert run.returncode == 0, "\n".join([*run.stdout.splitlines()[-1:], run.stderr[-2000:]])
    assert run.stdout.splitlines()[-1].startswith("done:")
