"""The C++ extension, imported on first use: its presence, and the instruction set that it uses."""

import contextlib
import functools
import importlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nfkern.kernels.dispatch.registry import Kernel
from nfkern.kernels.dispatch.seeds import over_seeds

BUILD = (
    "with torch and a C++ compiler, run `python setup.py build_ext --inplace` in a checkout, or to install it "
    "`pip install --no-build-isolation --no-deps --force-reinstall CHECKOUT`"
)

KERNELS = Path(__file__).parents[1]
PYTHON, TORCH = platform.python_version(), ".".join(torch.__version__.split(".")[:2])
MODULE = f"nfkern.kernels._native_{TORCH.replace('.', '_')}"
"""Of the torch that runs. Another minor version's has another layout of tensors, and could crash as it is loaded."""


@functools.cache
def load() -> ModuleType:
    """Return the extension module.

    Raises:
        ImportError: it is not built, or was built for another torch.
    """
    return importlib.import_module(MODULE)


@functools.cache
def device_reasons(device: torch.device) -> tuple[str, ...]:
    """Return the reasons for which no native kernel can run on the CPU; empty if one can."""
    if sys.platform != "linux":
        return (f"the C++ extension is for Linux, and this is {sys.platform}",)
    if find_spec(MODULE) is None:
        if others := ", ".join(sorted(path.name for path in KERNELS.glob("_native_*.so"))):
            return (f"the C++ extension is {others}, and this is torch {TORCH} on Python {PYTHON}: {BUILD}",)
        return (f"the C++ extension is not built: {BUILD}",)
    try:
        load()
    except ImportError as error:
        return (f"the C++ extension does not load ({error}); build it again: {BUILD}",)
    return ()


def call_reasons(tensor: torch.Tensor) -> list[str]:
    """Return the reasons for which a call with this first tensor cannot run on a native kernel; empty if it can."""
    found = []
    if tensor.dtype not in (torch.float32, torch.float64):
        found.append(f"{tensor.dtype}: the kernels take float32 and float64")
    if not tensor.numel():
        found.append("no rows")
    return found


def extension_kernel(
    name: str, rank: int | None, reasons: Callable[..., Sequence[str]] = lambda first, *rest: call_reasons(first)
) -> Kernel:
    """Return the extension's function of an op's name as its CPU kernel; `rank` as in `registry.define`.

    `reasons`: of the op's arguments, why the kernel does not take a call; empty if it does.
    """

    @functools.cache
    def kernel() -> Callable[..., Any]:
        return over_seeds(getattr(load(), name), rank)

    return Kernel(kernel, device_reasons, reasons, safe=True)


def instruction_sets() -> list[str]:
    """Instruction sets of both the extension and this machine, the fastest first; empty without the extension."""
    found: list[str] = [] if device_reasons(torch.device("cpu")) else load().instruction_sets()
    return found


def instruction_set() -> str | None:
    """The instruction set in use; None without the extension."""
    return None if device_reasons(torch.device("cpu")) else str(load().instruction_set())


def threads_in_use() -> int:
    """Number of threads of a call of many rows now; 1 in a child of a fork, whose parent's threads are gone."""
    return int(load().threads_in_use())


@contextlib.contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Run native kernels with this instruction set inside the context, for the whole process: for tests and benchmarks.

    Raises:
        ValueError: the extension or this machine does not have it.
    """
    before = load().instruction_set()
    load().choose_instruction_set(name)
    try:
        yield
    finally:
        load().choose_instruction_set(before)
