"""Does the suite notice? Seeds the faults of `faults.toml` one at a time and runs the tests of `make test`.

    python tests/mutations.py [--match TEXT] [--list]

Works on a copy of the tree in build/mutations, whose C++ extension is built anew for faults in C++: the tree and the
extension in use stay as they are. A fault is first shown to the test files that should notice it; if they do not, to
all tests of `make test`. Exit code 1 if a fault goes unnoticed. About half an hour on two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "mutations"
# Reads the right lines themselves: any fault would fail it.
READS_THE_LINES = "tests/test_suite.py::test_every_fault_can_be_seeded"


@dataclass(frozen=True)
class Fault:
    """A wrong line in place of a right one; see `faults.toml`."""

    name: str
    file: str
    right: str
    wrong: str
    tests: list[str]

    @property
    def native(self) -> bool:
        """Whether the extension has to be built anew."""
        return Path(self.file).suffix in (".cpp", ".h", ".inc")

    def seeded(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            ValueError: the right text does not stand in it exactly once.
        """
        if (count := text.count(self.right)) != 1:
            raise ValueError(f"{self.name}: expected {self.right!r} once in {self.file}, got {count} times")
        return text.replace(self.right, self.wrong)


def load() -> list[Fault]:
    """All faults."""
    with open(ROOT / "tests" / "faults.toml", "rb") as file:
        return [Fault(**entry) for entry in tomllib.load(file)["faults"]]


def main() -> int:
    """Seed every fault, or those asked for; 0, or 1 if one goes unnoticed."""
    parser = argparse.ArgumentParser(description="Seed faults one at a time, and see that `make test` notices each.")
    parser.add_argument("--match", default="", help="only faults whose name or file contains this")
    parser.add_argument("--list", action="store_true", help="show the faults, and seed none")
    arguments = parser.parse_args()
    chosen = [fault for fault in load() if arguments.match in fault.name or arguments.match in fault.file]
    if not chosen:
        parser.error(f"--match: no fault's name or file contains {arguments.match!r}")
    if arguments.list:
        print("\n".join(f"{fault.file}: {fault.name}" for fault in chosen))
        return 0
    copy_tree()
    if any(fault.native for fault in chosen):
        print("building the copy's extension ...", flush=True)
        build()
    named = sorted({test for fault in chosen for test in fault.tests})
    if (result := run_tests(named)).returncode:
        print(f"{result.stdout}\nwithout a fault, these tests have to pass: {' '.join(named)}", file=sys.stderr)
        return 1
    unnoticed = [fault for number, fault in enumerate(chosen) if not noticed(fault, f"{number + 1}/{len(chosen)}")]
    print(f"{len(chosen)} faults, {len(chosen) - len(unnoticed)} noticed")
    for fault in unnoticed:
        print(f"UNNOTICED {fault.file}: {fault.name}")
    return 1 if unnoticed else 0


def copy_tree() -> None:
    """Make the copy afresh: what was built there may have a fault in it."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = ["git", "ls-files", "-coz", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    extensions = [str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/_native*")]
    for name in [*names, *extensions]:
        # Git names files that are gone from the tree, too, and ends its list with nothing.
        if not name or not (ROOT / name).exists():
            continue
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        # With its time, so that only what a fault changes is compiled again.
        shutil.copy2(ROOT / name, COPY / name, follow_symlinks=False)


def build() -> None:
    """Build the copy's extension in place."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=COPY, capture_output=True, text=True, check=False)
    if result.returncode or "could not be built" in result.stderr:
        raise SystemExit(f"the extension cannot be built:\n{result.stdout}{result.stderr}")


def noticed(fault: Fault, place: str) -> bool:
    """Seed a fault, run the tests, and take it out again; tells what came of it."""
    path, start = COPY / fault.file, time.monotonic()
    right = path.read_text()
    path.write_text(fault.seeded(right))
    try:
        if fault.native:
            build()
        result, where = run_tests(fault.tests), "named tests"
        if not result.returncode:
            result, where = run_tests(["tests"]), "other tests"
    finally:
        path.write_text(right)
    # Lines of tests, not of files that cannot be imported: a fault is no typing error.
    failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED ", "ERROR ")) and "::" in line]
    if result.returncode and not failed:
        raise SystemExit(f"{fault.name}: expected a test to fail, got no more than\n{result.stdout}{result.stderr}")
    verdict = f"noticed by {where}: {failed[0][:120]}" if failed else "UNNOTICED"
    print(f"[{place}] {fault.name}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    return bool(failed)


def run_tests(files: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The tests of `make test` in some files, up to the first that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not exhaustive"]
    command += ["--deselect", READS_THE_LINES, *files]
    if len(files) > 1 or files == ["tests"]:
        command += ["-n", "2", "--dist", "loadfile"]
    environment = os.environ | {"PYTHONPATH": str(COPY)}
    return subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
