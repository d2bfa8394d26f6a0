"""Rules of this suite, as a pytest plugin: what starts first, how long a test may take, and which tests may skip.

`make test` runs all tests but those marked `exhaustive`, which `make test-all` adds.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

LIMIT = 30.0
"""Seconds that a test may take, set-up included, unless it is exhaustive."""

DURATIONS = Path(__file__).parents[1] / "durations.json"
"""Seconds of each test file, as `--record-durations` measured them."""

ALLOWED_SKIPS = ("needs a CUDA device", "needs metaworld, whose MuJoCo is another")
"""Reasons that a machine with everything installed may have, as regular expressions."""

collected = pytest.StashKey["Collected"]()


class Collected:
    """What the reports of a run say: seconds of each test, tests that may be long, and reasons of skips."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.exhaustive: set[str] = set()
        self.skips: dict[str, str] = {}

    def too_long(self) -> dict[str, float]:
        """Tests beyond the limit."""
        return {test: s for test, s in self.seconds.items() if s > LIMIT and test not in self.exhaustive}

    def not_allowed(self) -> dict[str, str]:
        """Skipped tests whose reason is not on the list."""
        return {
            test: reason
            for test, reason in self.skips.items()
            if not any(re.fullmatch(pattern, reason) for pattern in ALLOWED_SKIPS)
        }


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options of this suite."""
    group = parser.getgroup("suite")
    group.addoption("--only-allowed-skips", action="store_true", help="fail on any other skip")
    group.addoption("--record-durations", action="store_true", help=f"write each file's seconds to {DURATIONS.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Start with empty books."""
    config.stash[collected] = Collected()
    config.pluginmanager.register(_Reports(config.stash[collected]))


class _Reports:
    """Writes the reports into the books; pytest passes them without the session."""

    def __init__(self, books: Collected) -> None:
        self.books = books

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.books.seconds[report.nodeid] += report.duration
        if "exhaustive" in report.keywords:
            self.books.exhaustive.add(report.nodeid)
        self._skip(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._skip(report)

    def _skip(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.books.skips[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that workers end together; new ones are taken for long."""
    recorded = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    items.sort(key=lambda item: -recorded.get(item.nodeid.partition("::")[0], float("inf")))
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker("slow")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test took too long, or skipped for a reason that is not allowed."""
    config, books = session.config, session.config.stash[collected]
    if hasattr(config, "workerinput"):
        return
    refused = config.getoption("only_allowed_skips") and books.not_allowed()
    if session.exitstatus == pytest.ExitCode.OK and (books.too_long() or refused):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if config.getoption("record_durations"):
        files: dict[str, float] = defaultdict(float)
        for test, seconds in books.seconds.items():
            files[test.partition("::")[0]] += seconds
        rounded = {file: round(seconds, 1) for file, seconds in sorted(files.items(), key=lambda pair: -pair[1])}
        DURATIONS.write_text(json.dumps(rounded, indent=0) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the tests that break a rule."""
    books = config.stash[collected]
    for test, seconds in books.too_long().items():
        terminalreporter.write_line(f"TOO LONG {test}: {seconds:.0f} s, at most {LIMIT:.0f} s unless marked exhaustive")
    if config.getoption("only_allowed_skips"):
        for test, reason in books.not_allowed().items():
            terminalreporter.write_line(f"SKIP NOT ALLOWED {test}: {reason} (see ALLOWED_SKIPS in suite_rules.py)")
