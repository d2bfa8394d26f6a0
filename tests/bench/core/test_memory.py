"""Memory of training steps: what is held at once, not what is allocated in all."""

import pytest
import torch

from nfkern.bench import memory
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Benchmark, Row, rows
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.memory import allocated_at_most, peak_bytes
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.runner import measure

CPU = torch.device("cpu")
MEGABYTE = 1 << 20


def test_what_is_held_at_once_counts_and_what_was_there_before_does_not():
    before = torch.zeros(MEGABYTE, dtype=torch.uint8)

    def run():
        nonlocal before
        first = torch.ones(3 * MEGABYTE, dtype=torch.uint8)
        second = torch.ones(2 * MEGABYTE, dtype=torch.uint8)
        del first
        third = torch.ones(2 * MEGABYTE, dtype=torch.uint8)
        del second, third
        before = before + 0

    assert allocated_at_most(run) == 5 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", "nfkern"])
def test_the_smoke_suites_training_rows_have_their_memory(name):
    row = Row(WORKS["training_step"], CASES["tiny"], 4, 1, (VARIANTS[name],), memory=True)
    (record,) = measure(row, CPU, current_environment(CPU), SMOKE)
    # Gradients, and AdamW's two averages, of every parameter.
    least = 3 * 4 * record.parameters
    assert least < record.peak_bytes < 10 * least


def test_a_process_that_fails_is_told_of_and_costs_no_row(monkeypatch, capsys):
    row = Row(WORKS["training_step"], CASES["tiny"], 4, 1, (VARIANTS["eager"],), memory=True)
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    assert peak_bytes(row, VARIANTS["eager"], CPU) is None
    assert "training_step-tiny-4-threads_1, eager: memory not measured: no reason given" in capsys.readouterr().err


def test_threads_double_from_one_to_all():
    def counts(threads, available):
        benchmark = Benchmark("log_prob", ("tiny",), (1,), ("eager",), threads)
        return [row.threads for row in rows([benchmark], WORKS, VARIANTS, available)]

    assert counts(("doubling",), 6) == [1, 2, 4, 6]
    assert counts(("doubling",), 8) == [1, 2, 4, 8]
    assert counts(("doubling",), 1) == [1]
    assert counts(("one", "all"), 6) == [1, 6]
