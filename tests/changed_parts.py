"""Print a marker expression for pytest: the parts of `make test-all` that concern the files changed since a commit.

    python tests/changed_parts.py [BASE]

Without BASE, the newest commit that is a day older than HEAD, for a clone cannot tell what has landed: what is younger
counts as changed, and without an older commit everything does. Prints nothing if no part is concerned.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]

PARTS = {
    "rivals": ("bench/problems/*", "bench/rivals/*", "constraints.txt"),
    "targets": (
        "kernels/*triton*",
        "bench/kernels/binaries.py",
        "bench/kernels/calls.py",
        "bench/kernels/kernel_launches.py",
        "bench/kernels/resources.py",
    ),
    "sweeps": ("kernels/*",),
    "arm": ("kernels/*.cpp", "kernels/*.h", "kernels/*.inc", "tests/support/aarch64/*"),
    "wheel": ("setup.py", "pyproject.toml", "kernels/dispatch/native_extension.py"),
    "export": ("algorithms/exporting.py", "algorithms/agents/*", "nfkern/acting/*", "nfkern/flows/*"),
    "learning": ("algorithms/agents/*", "algorithms/training/*", "nfkern/flows/*", "nfkern/optim.py"),
    "data": ("algorithms/data/*", "algorithms/envs/*"),
    "plugs": ("docs/examples/*", "nfkern/flows/*", "nfkern/acting/*"),
    "commands": (
        *("algorithms/agents/*", "algorithms/commands/*", "algorithms/evaluation/*", "algorithms/runs/*"),
        *("algorithms/sweep/*", "algorithms/training/*", "bench/studies/*", "nfkern/cli/*", "README.md"),
    ),
}
"""Patterns of the files that each part of the exhaustive tests is about; `*` matches folders, too."""


def concerned(changed: Iterable[str]) -> list[str]:
    """The parts that changed files belong to; a test file belongs to the parts that are marked in it."""
    names = list(changed)
    files = [ROOT / name for name in names if name.startswith("tests/") and name.endswith(".py")]
    tests = [file.read_text() for file in files if file.is_file()]
    return [
        part
        for part, patterns in PARTS.items()
        if any(fnmatch(name, pattern) for name in names for pattern in patterns)
        or any(part in parts_in(text) for text in tests)
    ]


def parts_in(test_file: str) -> list[str]:
    """The parts that a test file's text names."""
    return re.findall(r'\bpart="(\w+)"', test_file)


def expression(parts: Iterable[str]) -> str:
    """Return an expression for pytest's `-m`."""
    return " or ".join(f"exhaustive(part='{part}')" for part in parts)


def changed_since(base: str) -> list[str]:
    """Files that differ between a commit and HEAD; all without a commit."""
    if not base:
        return _git("ls-files")
    return _git("diff", "--name-only", "--no-renames", base, "HEAD")


def default_base() -> str:
    """The newest commit a day older than HEAD, or nothing."""
    (head,) = _git("log", "-1", "--format=%ct")
    found = _git("rev-list", "-1", "--first-parent", f"--before={int(head) - 86_400}", "HEAD")
    return found[0] if found else ""


def _git(*arguments: str) -> list[str]:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


if __name__ == "__main__":
    print(expression(concerned(changed_since(sys.argv[1] if sys.argv[1:] else default_base()))))
