"""The suite's own rules, and the two scripts beside it."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import changed_parts
import mutations
import pytest
from support import suite_rules
from support.selected import selected

ROOT = Path(__file__).parents[1]
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
in_git = pytest.mark.skipif(not FILES, reason="needs a git checkout")


def run_suite(folder, code, *options):
    """Output of pytest for a test file under the rules, and its exit code."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    exhaustive\n")
    (folder / "test_it.py").write_text(code)
    # Other plugins take seconds to import.
    own = {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | own
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "support.suite_rules",
        "-p",
        "xdist",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return result.stdout, result.returncode


LONG = """
import pytest
from support import suite_rules
suite_rules.LIMIT = 0.05
def test_short(): pass
@pytest.mark.exhaustive(part="rivals")
def test_exhaustive(): import time; time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_test_that_takes_too_long_fails_a_run_that_records_durations(workers, tmp_path):
    # Workers import the test file, the process that judges does not.
    (tmp_path / "conftest.py").write_text(
        "import pathlib\nfrom support import suite_rules\n"
        "suite_rules.LIMIT, suite_rules.DURATIONS = 0.05, pathlib.Path('durations.json')\n"
    )
    long = LONG + "def test_long(): import time; time.sleep(0.1)\n"
    assert run_suite(tmp_path, LONG, *workers, "--record-durations")[1] == 0
    for options, expected in ((), 0), (("--record-durations",), 1):
        printed, code = run_suite(tmp_path, long, *workers, *options)
        assert code == expected
        assert "TOO LONG test_it.py::test_long: 0 s, at most 0 s unless marked exhaustive" in printed
        assert "TOO LONG test_it.py::test_exhaustive" not in printed


SKIPPING = """
import pytest

pytestmark = pytest.mark.slow
def test_passes(): pass
def test_skips(): pytest.skip("the moon is full")
def test_may_skip(): pytest.skip("needs a CUDA device")
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_skip_whose_reason_is_not_on_the_list_fails_the_run(workers, tmp_path):
    assert run_suite(tmp_path, SKIPPING, *workers)[1] == 0
    printed, code = run_suite(tmp_path, SKIPPING, *workers, "--only-allowed-skips")
    assert code == 1
    assert "SKIP NOT ALLOWED test_it.py::test_skips: the moon is full" in printed
    assert "test_may_skip" not in printed
    # So does one of a whole file.
    whole = 'import pytest\npytest.importorskip("no_such_module")\n'
    printed, code = run_suite(tmp_path, whole, *workers, "--only-allowed-skips", str(tmp_path / "test_it.py"))
    assert code != 0
    assert "SKIP NOT ALLOWED test_it.py: could not import 'no_such_module'" in printed


def test_exhaustive_tests_are_slow_and_the_longest_files_come_first(tmp_path, monkeypatch):
    assert "1 deselected" in run_suite(tmp_path, LONG, "-m", "not slow")[0]

    class Item:
        def __init__(self, nodeid):
            self.nodeid = nodeid

        def get_closest_marker(self, name):
            return None

    recorded = tmp_path / "durations.json"
    recorded.write_text('{"tests/b.py": 2.0, "tests/a.py": 1.0}')
    monkeypatch.setattr(suite_rules, "DURATIONS", recorded)
    items = [Item(f"tests/{name}") for name in ("a.py::x", "a.py::y", "b.py::x[::]", "new.py::x")]
    suite_rules.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [f"tests/{n}" for n in ("new.py::x", "b.py::x[::]", "a.py::x", "a.py::y")]


def test_durations_are_recorded_by_file(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import pathlib\nfrom support import suite_rules\nsuite_rules.DURATIONS = pathlib.Path('durations.json')\n"
    )
    (tmp_path / "test_earlier.py").touch()
    (tmp_path / "durations.json").write_text('{"test_it.py": 7.0, "test_gone.py": 5.0, "test_earlier.py": 3.0}')
    run_suite(tmp_path, LONG, "--record-durations")
    assert (tmp_path / "durations.json").read_text() == '{\n"test_earlier.py": 3.0,\n"test_it.py": 0.1\n}\n'


def test_selected_values():
    first, second = selected([("a", 1), ("b", 2)], [("b", 2)], part="sweeps")
    assert (first.values, second) == (("a", 1), ("b", 2))
    assert [(mark.name, mark.kwargs) for mark in first.marks] == [("exhaustive", {"part": "sweeps"})]
    with pytest.raises(ValueError, match=r"kept: expected some of the values, got \['c'\]"):
        selected(["a"], ["c"], part="sweeps")


@in_git
def test_changed_files_call_for_their_parts():
    concerned = changed_parts.concerned
    assert concerned(["README.md"]) == ["commands"]
    assert concerned(["bench/rivals/jax_jit.py"]) == ["rivals"]
    assert concerned(["kernels/coupling/triton_kernels.py"]) == ["targets", "sweeps"]
    assert concerned(["setup.py"]) == ["wheel"]
    assert concerned(["tests/test_package.py"]) == ["wheel"]
    assert concerned(["CHANGELOG.md", "tests/gone.py"]) == []
    assert set(concerned(FILES)) == set(changed_parts.PARTS)
    assert changed_parts.expression(["rivals", "wheel"]) == "exhaustive(part='rivals') or exhaustive(part='wheel')"
    assert changed_parts.expression([]) == ""


@in_git
def test_parts_and_patterns_are_those_of_the_tree():
    for part, patterns in changed_parts.PARTS.items():
        for pattern in patterns:
            assert any(fnmatch(name, pattern) for name in FILES), (part, pattern)
    for path in Path(ROOT / "tests").rglob("test_*.py"):
        if path != Path(__file__):
            for named in changed_parts.parts_in(path.read_text()):
                assert named in changed_parts.PARTS, (path, named)


def test_every_fault_can_be_seeded():
    faults = mutations.load()
    assert len({fault.name for fault in faults}) == len(faults) >= 24
    for fault in faults:
        text = (ROOT / fault.file).read_text()
        assert fault.seeded(text) != text
        assert fault.tests
        assert all((ROOT / test).is_file() for test in fault.tests), fault.name
    with pytest.raises(ValueError, match="expected .* once in .*, got 0 times"):
        faults[0].seeded("")
