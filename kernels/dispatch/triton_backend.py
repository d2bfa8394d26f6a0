"""Conditions of Triton kernels, their launches, and a recording of launches without a GPU. Imports no Triton itself."""

import contextlib
import functools
import importlib
import os
import shutil
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from nfkern.kernels.dispatch.registry import Kernel

MAX_FEATURES = 64
TF32_ON_AMD = ("gfx942",)
"""AMD's architectures that have products in tf32; Triton refuses to compile them for others."""
HIDDEN_DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


def triton_kernel(
    module: str,
    function: str,
    reasons: Callable[..., list[str]],
    adapt: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda found: found,
) -> Kernel:
    """Return a host function as an op's CUDA kernel. Triton is imported when it first runs, never with the package.

    Args:
        module: where it lies, below `nfkern.kernels`.
        function: its name.
        reasons: of the op's arguments, why the kernels do not take a call; empty if they do.
        adapt: makes the op's flat arguments fit it.
    """

    @functools.cache
    def load() -> Callable[..., Any]:
        found = getattr(importlib.import_module(f"nfkern.kernels.{module}"), function)
        return adapt(on_its_device(found))

    return Kernel(load, device_reasons, reasons)


def any_size(tensor: torch.Tensor) -> list[str]:
    """Return the reasons for which no Triton kernel takes a tensor of any size; empty if they do."""
    reasons = [] if tensor.dtype == torch.float32 else [f"{tensor.dtype}: the kernels take float32"]
    return reasons if tensor.numel() else [*reasons, "no rows"]


def tensor_reasons(tensor: torch.Tensor) -> list[str]:
    """Return the reasons for which no Triton kernel takes a tensor, (..., features); empty if they do."""
    if tensor.shape[-1] <= MAX_FEATURES:
        return any_size(tensor)
    return [f"{tensor.shape[-1]} features: the kernels hold up to {MAX_FEATURES}", *any_size(tensor)]


def dtype_reasons(compute_dtype: torch.dtype | None) -> list[str]:
    """Return the reasons for which no Triton kernel has products in a dtype; empty if they do."""
    if compute_dtype in HIDDEN_DTYPES:
        return []
    return [f"compute_dtype {compute_dtype}: the kernels take float32, bfloat16 and float16"]


@functools.cache
def device_reasons(device: torch.device) -> tuple[str, ...]:
    """Return the reasons for which no Triton kernel can run on a CUDA or ROCm device; empty if one can."""
    if find_spec("triton") is None:
        return ("the package triton is missing: CUDA builds of torch bring it",)
    if not torch.cuda.is_available():
        return ("torch sees no CUDA or ROCm device",)
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < (8, 0):
        return (f"compute capability {capability[0]}.{capability[1]}: the kernels need 8.0",)
    return _compiler_reasons()


def _compiler_reasons() -> tuple[str, ...]:
    """Return the reasons for which Triton cannot compile the C code that launches kernels; empty if it can."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return ("no C compiler, which Triton needs for launches: install gcc, or name one in the variable CC",)
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return (f"no Python headers in {headers}, which Triton needs for launches: install python3-dev",)
    return ()


def on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes the first tensor's device the current one, to which launches go."""

    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        device = args[0].device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return function(*args)
        with torch.cuda.device(device):
            return function(*args)

    return guarded


@dataclass(frozen=True)
class Launch:
    """Arguments of a call of `launch`."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


class _Recorder(threading.local):
    """The list of this thread's launches; None while they are made."""

    launches: list[Launch] | None = None


_recorder = _Recorder()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch a kernel: the one place where it happens."""
    if _recorder.launches is None:
        kernel[grid](*args, **options)
    else:
        _recorder.launches.append(Launch(kernel, grid, args, options))


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """List this thread's launches instead of making them: for inspection without a GPU, with meta tensors."""
    before, launches = _recorder.launches, list[Launch]()
    _recorder.launches = launches
    try:
        yield launches
    finally:
        _recorder.launches = before


def dependent(device: torch.device) -> dict[str, Any]:
    """Return a launch's arguments for programmatic dependent launch, where the hardware has it."""
    able = device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
    return {"PDL": able, "launch_pdl": True} if able else {"PDL": False}


def float32_precision(beside_16_bits: bool = False) -> Literal["ieee", "tf32", "tf32x3"]:
    """Return `input_precision` of the products of float32 numbers, for the current device.

    It is tf32 where PyTorch's own switch allows that. Else it is float32's own; beside hidden products in 16 bits the
    other products, which are small, are three of tf32 each on NVIDIA: as exact, and on the matrix units.
    """
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    if torch.version.hip is not None:
        architecture = torch.cuda.get_device_properties(torch.cuda.current_device()).gcnArchName
        return "tf32" if allowed and architecture.startswith(TF32_ON_AMD) else "ieee"
    return "tf32" if allowed else "tf32x3" if beside_16_bits else "ieee"


def padded(width: int) -> int:
    """Return the next power of two, at least the 16 that a product wants."""
    return max(16, 1 << (width - 1).bit_length())
