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


class Launcher:
    """A kernel with all arguments but its last numbers, for launches in a row: the one place where they happen.

    Triton's own launcher looks at every argument of every launch. Here the compiled kernel is looked up once, by a key
    that tells apart all that Triton tells apart, and then called.

    Args:
        kernel: as `triton.jit` returns it.
        args: its first arguments, by position.
        options: its compile-time constants and the launch's resources, by name.
    """

    def __init__(self, kernel: Any, *args: Any, **options: Any) -> None:
        self._kernel, self._args, self._options = kernel, args, options
        self._compiled: _Compiled | None = None

    def __call__(self, grid: tuple[int, ...], *last: int) -> None:
        """Launch with the last arguments: small numbers that the kernel is not compiled anew for."""
        if _recorder.launches is not None:
            _recorder.launches.append(Launch(self._kernel, grid, (*self._args, *last), self._options))
        elif self._compiled is not None:
            self._compiled(grid, *self._args, *last)
        elif (found := _compiled.get(key := self._key())) is not None:
            self._compiled = found
            found(grid, *self._args, *last)
        # The interpreter returns nothing.
        elif (first := self._kernel[grid](*self._args, *last, **self._options)) is not None:
            parameters = self._kernel.params[len(self._args) + len(last) :]
            constants = tuple(self._options.get(each.name, each.default) for each in parameters)
            self._compiled = _compiled[key] = _Compiled(first, constants)

    def _key(self) -> tuple[Any, ...]:
        """Everything that Triton may compile the kernel anew for; a constant is of one type throughout."""
        large = torch.version.hip is not None
        specializations = [_specialization(value, large) for value in self._args]
        return (self._kernel.fn, *specializations, *self._options.items())


class _Compiled:
    """A compiled kernel with the constants that follow its arguments."""

    def __init__(self, kernel: Any, constants: tuple[Any, ...]) -> None:
        self._kernel, self._constants = kernel, constants

    def __call__(self, grid: tuple[int, ...], *args: Any) -> None:
        """Launch on the current device's current stream."""
        self._kernel[(*grid, 1, 1)[:3]](*args, *self._constants)


_compiled: dict[tuple[Any, ...], _Compiled] = {}


def _specialization(value: Any, large: bool) -> Any:
    """Return what Triton may compile a kernel anew for, of an argument; with `large`, on AMD, tensors of 2 GiB, too."""
    if isinstance(value, torch.Tensor):
        far = large and value.untyped_storage().nbytes() >= 1 << 31
        return value.get_device(), value.dtype, value.data_ptr() % 16, far
    if isinstance(value, int):
        return value == 1, value % 16, value.bit_length() // 32
    return type(value)


def programs(count: int, tile: int) -> int:
    """Return how many programs of `tile` share `count`: `triton.cdiv`, for device code too, takes 10 us on the host."""
    return -(-count // tile)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch a kernel once."""
    Launcher(kernel, *args, **options)(grid)


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
