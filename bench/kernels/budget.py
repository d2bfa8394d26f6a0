"""What a compiled kernel may use on each target: a spill or a missing matrix instruction is a defect."""

from dataclasses import dataclass

from nfkern.bench.kernels.binaries import Usage
from nfkern.bench.kernels.kernel_launches import Compilation


@dataclass(frozen=True)
class Budget:
    """A budget: resources that a kernel may use on a target.

    Attributes:
        shared: bytes of shared memory that a program can have.
        registers: of a thread; None where spills are shown but not held against the kernel.
    """

    shared: int
    registers: int | None = None


BUDGETS = {
    "sm_80": Budget(163 << 10),
    # The target that the launch table was chosen for.
    "sm_90": Budget(227 << 10, registers=255),
    "sm_100": Budget(227 << 10),
    "gfx942": Budget(64 << 10),
    "gfx1100": Budget(64 << 10),
}

MOVED_STACK = 16
"""Bytes. The assembler moves a word or two to the stack to stay at a round number of registers, far below those it can
have (seen at 64 to 128 registers of 255, Triton 3.7, 2026-11): that is its choice for occupancy, no lack of them."""


def broken(each: Compilation, used: Usage, budget: Budget) -> tuple[str, ...]:
    """Return the reasons for which a kernel is over budget; empty if it is not."""
    reasons = []
    limit = budget.registers
    if limit is not None and used.stack > (MOVED_STACK if used.registers < limit else 0):
        reasons.append(f"spills registers: {used.stack} bytes of stack, {used.spills} instructions")
    if each.products and each.arithmetic != "ieee" and not used.matrix:
        reasons.append(f"no matrix instructions, though its products are in {each.arithmetic}")
    if used.shared > budget.shared:
        reasons.append(f"{used.shared} bytes of shared memory, where a program can have {budget.shared}")
    return tuple(reasons)
