"""Installs the package in the ways that people do, each in an environment of its own, and looks for its kernels.

    python tests/installations.py [--python PYTHON ...] [--torch VERSION ...] [--ways WAY ...] [--extras EXTRA ...]

Every Python with every torch; then every extra alone, with the first Python and torch. Needs the package index, and
2 GB of disk for each environment in turn. Exit code 1 if an installation fails. Minutes for each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

# In an empty folder: the kernels are there, and say the same as the reference.
CHECK = """
import torch, nfkern
from nfkern.kernels.dispatch.native_extension import instruction_sets
torch.manual_seed(0)
flow, x, context = nfkern.CouplingFlow(4, 3, blocks=2, hidden=(8, 8)), torch.randn(5, 4), torch.randn(5, 3)
found = flow(x, context)
with nfkern.use_reference():
    torch.testing.assert_close(found, flow(x, context))
assert instruction_sets(), "no native kernels"
print(f"torch {torch.__version__}, {instruction_sets()[0]}")
"""


class Environment:
    """A virtual environment in a folder, which `pip` fills; torch stays what it is installed as."""

    def __init__(self, folder: Path, python: str, torch: str) -> None:
        self.folder = folder
        subprocess.run([python, "-m", "venv", folder / "env"], check=True)
        self.python = folder / "env" / "bin" / "python"
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("torch==", "triton=="))]
        self.constraints = folder / "constraints.txt"
        self.constraints.write_text("\n".join([f"torch=={torch}", *kept, ""]))

    def pip(self, *arguments: object) -> None:
        """Run `pip install`, or raise with what it printed."""
        # By the environment: it holds in isolated builds, too, which `-c` does not reach.
        environment = os.environ | {"PIP_CONSTRAINT": str(self.constraints)}
        self.run("-m", "pip", "--disable-pip-version-check", "install", "-q", *arguments, env=environment)

    def run(self, *arguments: object, **options: object) -> str:
        """Return what the environment's Python prints, away from the checkout."""
        command = [str(each) for each in (self.python, *arguments)]
        found = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **options)
        if found.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {found.returncode}\n{found.stdout}{found.stderr}")
        return found.stdout.strip()


def folder(environment: Environment) -> None:
    """`pip install .` where torch is not there yet."""
    environment.pip(checkout(environment))


def beside_torch(environment: Environment) -> None:
    """`pip install .` where torch is there."""
    environment.pip("torch", "numpy")
    environment.pip(checkout(environment))


def git(environment: Environment) -> None:
    """`pip install git+...`."""
    environment.pip("torch", "numpy")
    environment.pip(f"git+file://{ROOT}")


def editable(environment: Environment) -> None:
    """`pip install -e .`, as developers do."""
    environment.pip("torch", "numpy", "setuptools", "wheel", "ninja")
    environment.pip("--no-build-isolation", "-e", checkout(environment))


def distributions(environment: Environment) -> None:
    """`python -m build`: a source distribution, the wheel that is built from it, and its installation."""
    environment.pip("build", "torch", "numpy", "setuptools", "wheel", "ninja")
    built = environment.folder / "dist"
    environment.run("-m", "build", "--no-isolation", "--outdir", built, checkout(environment))
    (wheel,) = built.glob("*.whl")
    environment.pip(wheel)


def checkout(environment: Environment) -> Path:
    """Return a clone of the last commit, for builds leave files where they run."""
    copy = environment.folder / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
    return copy


WAYS: dict[str, Callable[[Environment], None]] = {
    way.__name__: way for way in (beside_torch, folder, git, editable, distributions)
}


def attempt(name: str, python: str, torch: str, install: Callable[[Environment], None], check: str) -> bool:
    """Install in a new environment, check, and say how it went."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            environment = Environment(Path(folder), python, torch)
            install(environment)
            said = environment.run("-c", check)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"FAILED  {name}: {error}", flush=True)
            return False
    print(f"ok      {name}: {said}", flush=True)
    return True


def main() -> int:
    """Try everything that is asked for; 0, or 1 if something failed."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (tested,) = (line.removeprefix("torch==") for line in lines if line.startswith("torch=="))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters; default this one")
    parser.add_argument("--torch", nargs="+", default=[tested], help="versions; default that of constraints.txt")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--extras", nargs="*", choices=extras, default=[], help="extras to install alone")
    options = parser.parse_args()
    passed = [
        attempt(f"{way}, {python}, torch {torch}", python, torch, WAYS[way], CHECK)
        for python in options.python
        for torch in options.torch
        for way in options.ways
    ]
    for extra in options.extras:

        def with_extra(environment: Environment, extra: str = extra) -> None:
            environment.pip("torch", "numpy")
            environment.pip(f"{checkout(environment)}[{extra}]")

        passed.append(attempt(f"[{extra}]", options.python[0], options.torch[0], with_extra, CHECK))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
