"""Processes in which Triton compiles: in that of the tests, it interprets."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_compiling(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the root folder, with these variables."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
