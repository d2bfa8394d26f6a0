"""Rules of this suite, as a pytest plugin: what starts first, how long a test may take, and which tests may skip.

`make test` runs all tests but those marked `exhaustive`, which `make test-all` adds.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

LIMIT = 30.0
"""Seconds that a test may take on two idle cores, set-up included, unless it is exhaustive."""

DURATIONS = Path(__file__).parents[1] / "durations.json"
"""Seconds of each test file, as `--record-durations` measured them."""

ALLOWED_SKIPS = (
    *("needs a CUDA device", "there is a GPU.*", "needs metaworld, whose MuJoCo is another"),
    # RL libraries, and compilers and an emulator for ARM, of several hundred megabytes.
    r"needs \w+: see `make plugs`",
    r"needs (aarch64-linux-gnu-\S+|qemu-aarch64|clang\+\+) on the path: see CONTRIBUTING.md",
)
"""Reasons that a machine with everything installed may have, as regular expressions."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options of this suite."""
    group = parser.getgroup("suite")
    group.addoption("--only-allowed-skips", action="store_true", help="fail on any other skip")
    group.addoption("--record-durations", action="store_true", help=f"write each file's seconds to {DURATIONS.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Judge the run, but in the processes that it is shared out to."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Judge(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that workers end together; new ones are taken for long."""
    recorded = _recorded()
    items.sort(key=lambda item: -recorded.get(_file(item.nodeid), float("inf")))
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker("slow")


class Judge:
    """Fails a run in which a test skips for a forbidden reason, or takes too long while durations are recorded.

    In other runs a test that takes too long is named alone: the machine may be busy.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.only_allowed_skips = config.getoption("only_allowed_skips")
        self.record_durations = config.getoption("record_durations")
        self.seconds: dict[str, float] = defaultdict(float)
        self.exhaustive: set[str] = set()
        self.skips: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count set-up, call and tear-down of a test."""
        self.seconds[report.nodeid] += report.duration
        if "exhaustive" in report.keywords:
            self.exhaustive.add(report.nodeid)
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Note why a test, or a whole file, skips."""
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def too_long(self) -> list[str]:
        """Tests that took too long, a line each."""
        return [
            f"TOO LONG {test}: {seconds:.0f} s, at most {LIMIT:.0f} s unless marked exhaustive"
            for test, seconds in self.seconds.items()
            if seconds > LIMIT and test not in self.exhaustive
        ]

    def forbidden_skips(self) -> list[str]:
        """Skips that are not allowed, a line each."""
        return [
            f"SKIP NOT ALLOWED {test}: {reason} (see ALLOWED_SKIPS in {Path(__file__).name})"
            for test, reason in self.skips.items()
            if self.only_allowed_skips and not any(re.fullmatch(allowed, reason) for allowed in ALLOWED_SKIPS)
        ]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a success with complaints into a failure."""
        broken = self.forbidden_skips() or (self.record_durations and self.too_long())
        if broken and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.record_durations:
            self._record(session.config.rootpath)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the complaints."""
        for complaint in self.too_long() + self.forbidden_skips():
            terminalreporter.write_line(complaint)

    def _record(self, root: Path) -> None:
        """Write the files of this run, and those of earlier ones that are still there, longest first."""
        measured: dict[str, float] = defaultdict(float)
        for test, seconds in self.seconds.items():
            measured[_file(test)] += seconds
        files = _recorded() | {file: round(seconds, 1) for file, seconds in measured.items()}
        kept = sorted((pair for pair in files.items() if (root / pair[0]).is_file()), key=lambda pair: -pair[1])
        DURATIONS.write_text(json.dumps(dict(kept), indent=0) + "\n")


def _recorded() -> dict[str, float]:
    found: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    return found


def _file(test: str) -> str:
    return test.partition("::")[0]
