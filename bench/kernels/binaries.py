"""Kernels compiled ahead of time, and what their machine code uses: no GPU is needed for either."""

import functools
import importlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nfkern.bench.kernels.kernel_launches import DTYPES, Compilation
from nfkern.errors import UserError

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}

_MATRIX = re.compile(r"HGMMA|[HQID]MMA|UTC[A-Z]*MMA")
_NAMED = re.compile(r"\.(vgpr_count|agpr_count|vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size): *(\d+)")


@dataclass(frozen=True)
class Usage:
    """Resources that a kernel's machine code uses.

    Attributes:
        registers: of a thread; on AMD the vector and accumulation registers of a lane.
        stack: bytes of a thread's memory that hold what registers could not.
        spills: instructions that move it, on AMD registers that were moved.
        shared: bytes of a program's shared memory.
        matrix: matrix instructions by name, as in `HGMMA 24`; empty without.
        multiply_adds: single-precision multiply-add instructions.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    matrix: str
    multiply_adds: int


def compile_kernel(each: Compilation, target: GPUTarget) -> Any:
    """Return Triton's compiled kernel.

    Raises:
        UserError: TRITON_INTERPRET is set, with which nothing is compiled.
    """
    kernel = _kernel(each)
    names = [name for name, _ in each.signature]
    constants = {(names.index(name),): value for name, value in each.constants}
    attributes = {(index,): [["tt.divisibility", 16]] for index in each.aligned}
    source = ASTSource(kernel, dict(each.signature), constants, attributes)
    return triton.compile(source, target=target, options=dict(each.options))


def _kernel(each: Compilation) -> Any:
    kernel = getattr(importlib.import_module(each.module), each.kernel)
    if not isinstance(kernel, triton.JITFunction):
        raise UserError("TRITON_INTERPRET is set, with which nothing is compiled: unset it")
    return kernel


def warm_up(each: Compilation) -> Any:
    """Compile for this machine's GPU through Triton's own launcher, which will find it in Triton's cache."""
    kernel, constants = _kernel(each), dict(each.constants)
    typed = [(index, kind) for index, (_, kind) in enumerate(each.signature) if kind != "constexpr"]
    arguments = [_example(kind, index in each.aligned) for index, kind in typed]
    return kernel.warmup(*arguments, grid=(1,), **constants, **dict(each.options))


def _example(kind: str, aligned: bool) -> Any:
    """Return an argument of this type for `JITFunction.warmup`, which looks at a tensor's dtype and address."""
    if kind[0] == "*":
        return torch.empty(2, dtype=DTYPES[kind[1:]], device="meta")[0 if aligned else 1 :]
    if kind == "fp32":
        return 0.5
    return (1 << 40 if kind == "i64" else 0) + (16 if aligned else 7)


def usage(each: Compilation, target_name: str) -> Usage:
    """Compile for a target of `TARGETS` and read the result."""
    return usage_of(compile_kernel(each, TARGETS[target_name]))


def usage_here(each: Compilation) -> Usage:
    """Compile for this machine's GPU, where Triton's own launcher finds the code, and read the result."""
    return usage_of(warm_up(each))


def usage_of(compiled: Any) -> Usage:
    """Read what Triton has compiled."""
    shared = int(compiled.metadata.shared)
    if "amdgcn" in compiled.asm:
        return read_amd(compiled.asm["amdgcn"], shared)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        return read_nvidia(_cuobjdump("-res-usage", file), _cuobjdump("-sass", file), shared)


def read_nvidia(resources: str, assembly: str, dynamic_shared: int) -> Usage:
    """Read the output of `cuobjdump -res-usage` and `cuobjdump -sass`."""
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", resources)
    if found is None:
        raise ValueError(f"resources: expected cuobjdump's REG, STACK, SHARED and LOCAL, got {resources[:200]!r}")
    registers, stack, shared, local = map(int, found.groups())
    # One line an instruction: /*address*/, a predicate if any, then the name with its modifiers.
    names = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?\S+\s+)?([A-Z0-9]+)", assembly, re.MULTILINE))
    return Usage(
        registers,
        stack + local,
        names["LDL"] + names["STL"],
        shared + dynamic_shared,
        _counts({name: count for name, count in names.items() if _MATRIX.fullmatch(name)}),
        names["FFMA"] + names["FFMA2"],
    )


def read_amd(assembly: str, shared: int) -> Usage:
    """Read the assembly that Triton keeps."""
    found = Counter({name: int(value) for name, value in _NAMED.findall(assembly)})
    matrix = Counter(each.upper() for each in re.findall(r"^\s+v_(mfma|wmma)_\w+", assembly, re.MULTILINE))
    return Usage(
        found["vgpr_count"] + found["agpr_count"],
        found["private_segment_fixed_size"],
        found["vgpr_spill_count"] + found["sgpr_spill_count"],
        shared,
        _counts(matrix),
        len(re.findall(r"^\s+v_(?:pk_)?fma(?:c|ak|mk)?_f32", assembly, re.MULTILINE)),
    )


def _counts(names: Mapping[str, int]) -> str:
    return " ".join(f"{name} {count}" for name, count in sorted(names.items()))


def _cuobjdump(flag: str, file: Path) -> str:
    command = [str(_tool()), flag, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def _tool() -> Path:
    """NVIDIA's disassembler, which comes with Triton."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        raise UserError(f"{tool}: not found; it comes with Triton's wheels for Linux")
    return tool
