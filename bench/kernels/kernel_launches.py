"""Triton kernels that calls would launch on a GPU, found without one.

The calls themselves are made on tensors without data, and their ops' host functions run: what is listed is what runs.
"""

import dataclasses
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nfkern.bench.kernels.calls import Arithmetic, Calls, ops
from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.registry import find_kernel
from nfkern.kernels.dispatch.triton_backend import TF32_ON_AMD, Launch, recording

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "i64": torch.int64,
}
"""Triton's names."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Compilation:
    """Everything that a compiled kernel depends on, as for Triton's own launcher; may be sent to another process.

    Attributes:
        module, kernel: where the device code is.
        arithmetic, case: what it was recorded for; several may need the same code, and the first is named.
        signature: type of each argument, in order.
        constants: values of the arguments that are compile-time constants.
        aligned: positions of pointers and integers that are divisible by 16.
        options: num_warps, num_stages and launch_pdl where the launch chooses them.
    """

    module: str
    kernel: str
    arithmetic: Arithmetic
    case: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    options: tuple[tuple[str, int], ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Return everything that the code depends on."""
        return (self.module, self.kernel, self.signature, self.constants, self.aligned, self.options)

    @property
    def mode(self) -> str:
        """Return the map and what else is switched on, as in `to_data save`."""
        constants = dict(self.constants)
        words = [constants["MODE"]] if "MODE" in constants else []
        if "TO_DATA" in constants:
            words.append("to_data" if constants["TO_DATA"] else "to_latent")
        flags = (name.lower() for name, value in self.constants if value is True and name not in ("PDL", "TO_DATA"))
        return " ".join([*words, *flags])

    @property
    def launch(self) -> str:
        """Return tile, chunks, warps and stages as text."""
        constants, options = dict(self.constants), dict(self.options)
        sizes = [str(constants[name]) for name in ("TILE", "CHUNK1", "CHUNK2") if name in constants]
        extent = f"{options.get('num_warps', 4)}w {options.get('num_stages', 3)}s"
        return f"{'x'.join(sizes)} {extent}".strip()

    @property
    def products(self) -> bool:
        """True for a kernel with matrix products, whose precision `arithmetic` is."""
        return "PRECISION" in dict(self.constants)


_WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}
"""PyTorch's operators that launch nothing, apart from those that make views."""


class _HostFunctions(TorchDispatchMode):
    """Inside, ops run what they would run on a GPU, whatever their tensors' device.

    Attributes:
        operators: PyTorch's own on tensors without data that launch kernels on a GPU, by name.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call an op's host function if it has one that takes these arguments."""
        kernel = find_kernel(func._schema.name.removeprefix("nfkern::"), "cuda")
        if kernel is None or kernel.call_reasons(*args):
            results = func(*args, **(kwargs or {}))
            first = next((each for each in tree_leaves(results) if isinstance(each, torch.Tensor)), None)
            name = func._schema.name.removeprefix("aten::")
            if first is not None and first.is_meta and not func.is_view and name not in _WITHOUT_KERNEL:
                self.operators[name] += 1
            return results
        with self:
            return kernel.load()(*args)


def launches_of(call: Callable[[], Any]) -> list[Launch]:
    """Return what a call of ops would launch on a GPU; its results are not computed."""
    with recording() as found, _HostFunctions():
        call()
    return found


def kernels_of(call: Callable[[], Any]) -> Counter[str]:
    """Return how often a call on tensors without data would launch each kernel on a GPU.

    Triton's are named as they are, PyTorch's after their operators, each of which counts as one.
    """
    with recording() as found, _HostFunctions() as host:
        call()
    host.operators.update(launch.kernel.fn.__name__ for launch in found)
    operators: Counter[str] = host.operators
    return operators


@contextmanager
def kernels_on_cpu() -> Iterator[None]:
    """Inside, ops on CPU tensors run the kernels of a GPU: Triton has to interpret, or to have another driver."""
    library = torch.library.Library("nfkern", "IMPL")
    try:
        with warnings.catch_warnings():
            # For the time being they stand before the native CPU kernels.
            warnings.filterwarnings("ignore", "Warning only once for all operators")
            for (name, device_type), kernel in registry._kernels.items():
                if device_type == "cuda":
                    here = dataclasses.replace(kernel, device_reasons=lambda device: ())
                    library.impl(name, registry.kernel_or_reference(name, here), "CPU", allow_override=True)
        yield
    finally:
        library._destroy()


def target_of(device: torch.device) -> str:
    """Return the architecture of a GPU, as in `sm_90` or `gfx942`."""
    properties = torch.cuda.get_device_properties(device)
    return properties.gcnArchName.split(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


def compilations(
    chosen: Iterable[tuple[Calls, Iterable[Arithmetic]]], target: str | None = None
) -> Iterator[Compilation]:
    """Yield every kernel that calls launch, once each.

    Args:
        chosen: calls, with the arithmetics of their products.
        target: the architecture that it is for, as in `sm_90` or `gfx942`; None for any of NVIDIA's before it.
    """
    found = set()
    for calls, arithmetics in chosen:
        inputs = calls.inputs(torch.device("meta"))
        for arithmetic in arithmetics:
            for launch in launches_of(functools.partial(calls.run, ops, inputs, arithmetic)):
                each = compilation(launch, target, arithmetic, calls.name)
                if each.key not in found:
                    found.add(each.key)
                    yield each


def compilation(launch: Launch, target: str | None, arithmetic: Arithmetic = "ieee", case: str = "") -> Compilation:
    """Return the code that a launch, recorded without a GPU, needs on a target."""
    kernel, options = launch.kernel, launch.options | (_choices(target, launch.options) if target else {})
    given = dict(zip(kernel.arg_names, launch.args, strict=False)) | options
    signature, constants, aligned = [], [], []
    for index, (name, constant, general, default) in enumerate(_parameters(kernel)):
        value = given.get(name, default)
        kind = "constexpr" if constant else _type(value, general)
        signature.append((name, kind))
        if kind == "constexpr":
            constants.append((name, value))
        elif not general and kind[0] in "*i" and _address(value) % 16 == 0:
            aligned.append(index)
    chosen = tuple((name, options[name]) for name in ("num_warps", "num_stages", "launch_pdl") if name in options)
    return Compilation(
        module=kernel.fn.__module__,
        kernel=kernel.fn.__name__,
        arithmetic=arithmetic,
        case=case,
        signature=tuple(signature),
        constants=tuple(constants),
        aligned=tuple(aligned),
        options=chosen,
    )


def _choices(target: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that `triton_backend` chooses by the device."""
    chosen: dict[str, Any] = {}
    if "PDL" in options and target.startswith("sm_") and int(target.removeprefix("sm_")) >= 90:
        chosen |= {"PDL": True, "launch_pdl": True}
    for name in {"PRECISION", "SINGLE"} & options.keys():
        if target.startswith("gfx") and not (options[name] == "tf32" and target in TF32_ON_AMD):
            chosen[name] = "ieee"
    return chosen


@functools.cache
def _parameters(kernel: Any) -> list[tuple[str, bool, bool, Any]]:
    """Return each parameter's name, two flags (compile-time constant; one code for all values) and its default."""
    # As Triton would compile it, also where it interprets.
    compiled = kernel if isinstance(kernel, triton.JITFunction) else triton.JITFunction(kernel.fn, **kernel.kwargs)
    return [(p.name, p.is_constexpr, p.do_not_specialize, p.default) for p in compiled.params]


def _type(value: Any, general: bool) -> str:
    """Return Triton's name of an argument's type; a `general` integer is compiled once for all values."""
    if isinstance(value, torch.Tensor):
        return f"*{_NAMES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    if value == 1 and not general:
        return "constexpr"
    return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


def _address(value: Any) -> int:
    """Return an integer, or a tensor's address; without data, counted from the beginning of its memory."""
    return value.data_ptr() if isinstance(value, torch.Tensor) else int(value)
