"""Memory of a training step, counted in a process of its own: what kernels keep from call to call would hide in ours.

Counted is what PyTorch's allocators hand out: activations, gradients, the optimiser's state and what kernels keep, but
neither the model nor the batch. A thread's own scratch, some hundred kB, is not.
"""

import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate, cycle, islice

import torch

from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Row, Variant
from nfkern.bench.core.timing import num_threads

STEPS = 3


def peak_bytes(row: Row, variant: Variant, device: torch.device) -> int | None:
    """The most that the first training steps hold at once, or None, said on stderr, if they fail in the process."""
    arguments = (row.work.name, row.case.name, str(row.batch), str(row.threads), variant.name, device.type)
    done = subprocess.run(
        [sys.executable, "-m", "nfkern.bench.memory", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{row.name}, {variant.name}: memory not measured: {reason}", file=sys.stderr)
        return None
    return int(done.stdout.split()[-1])


def allocated_at_most(run: Callable[[], object]) -> int:
    """Bytes of CPU tensors that `run` holds at once, beside those of before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    most: int = max(accumulate(sizes, initial=0))
    return most


def _count(work: str, case: str, batch: str, threads: str, variant: str, device: str) -> int:
    # Here, not above: the registry's compilers are for the process that counts.
    from nfkern.bench.registry import VARIANTS, WORKS

    problem = WORKS[work].prepare(CASES[case], int(batch), torch.device(device))
    with num_threads(int(threads)), WORKS[work].context():
        calls = VARIANTS[variant].builders[WORKS[work].job](problem).calls(problem.inputs)

        def steps() -> None:
            for call in islice(cycle(calls), STEPS):
                call()

        if device == "cpu":
            return allocated_at_most(steps)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps()
        return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    print(_count(*sys.argv[1:]))
