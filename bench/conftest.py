"""`pytest bench/ --suite quick --benchmark-json=FILE`: the suites' declarations on pytest-benchmark."""

import pytest
import torch

from nfkern.bench.core.declarations import rows
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.suites import SUITES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of suite."""
    parser.addoption("--suite", choices=list(SUITES), default="quick", help="benchmarks to run, as in nfkern bench run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per row and variant; the row's problem is shared by its variants."""
    if "variant" not in metafunc.fixturenames:
        return
    suite = SUITES[metafunc.config.getoption("--suite")]
    cases = [
        pytest.param(row, variant, id=f"{row.name}-{variant.name}")
        for row in rows(suite, WORKS, VARIANTS, torch.get_num_threads())
        for variant in row.variants
    ]
    metafunc.parametrize(("prepared", "variant"), cases, indirect=["prepared"], scope="module")
