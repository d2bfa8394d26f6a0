"""`python -m nfkern.bench.kernels.gpu_check`: 0 if all is right, 1 if something is wrong, 2 without a GPU.

`--small` checks a small problem of either kind of flow and nothing else.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# Read when cuBLAS starts: without, its sums may differ from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def main(arguments: list[str]) -> int:
    """Run all steps, write the results; the exit code."""
    if missing := [name for name in ("torch", "triton", "numpy") if find_spec(name) is None]:
        print(f"gpu-check: {sys.executable} has no {' and no '.join(missing)}", file=sys.stderr)
        return 2
    from datetime import UTC, datetime

    import torch

    from nfkern.bench.core.files import RESULTS

    if not torch.cuda.is_available():
        print(
            f"gpu-check: torch {torch.__version__} finds no GPU here, so nothing was checked. It needs a machine with "
            "a CUDA or ROCm device and a torch built for it; `nfkern bench resources` needs neither.",
            file=sys.stderr,
        )
        return 2
    from nfkern.acting.cuda_graphs import capture_cuda
    from nfkern.bench.core.environment import current_environment
    from nfkern.bench.kernels.gpu_check import correctness, plan, steps
    from nfkern.bench.kernels.gpu_check.problems import ops
    from nfkern.bench.kernels.gpu_check.report import Findings, write

    device = torch.device("cuda", torch.cuda.current_device())
    environment = current_environment(device)
    session = steps.Session(device, ops(), capture_cuda, steps.Clock(plan.BUDGET_S), Findings(environment))
    free, total = torch.cuda.mem_get_info(device)
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    session.clock.say(
        f"{environment.device_name}, capability {capability}, {free >> 20} of {total >> 20} MiB free; "
        + ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    )
    if "--small" in arguments:
        for name in ("tiny", "causal_tiny"):
            problem, _ = next(each for each in correctness.problems() if each[0].case.name == name)
            session.collect(problem.name, correctness.check(problem, ("ieee",), session.maps_of(problem), device))
        return 1 if session.findings.failures else 0
    folders = [RESULTS, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
    try:
        plan.carry_out(session, plan.Plan())
    except KeyboardInterrupt:
        session.findings.failures.append("interrupted")
    finally:
        # Also of a check that broke off: a GPU is not always at hand.
        written = write(session.findings, folders, datetime.now(UTC).strftime("%Y-%m-%d-%H%M"))
        for line in (*session.findings.notes, *(f"FAILED: {failure}" for failure in session.findings.failures)):
            print(line)
        print(f"wrote {', '.join(map(str, written))}; `nfkern bench tables` lists them in {RESULTS / 'README.md'}")
    session.clock.say(f"{len(session.findings.failures)} failures")
    return 1 if session.findings.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
