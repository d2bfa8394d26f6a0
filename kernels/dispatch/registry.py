"""Definition of ops in the `nfkern` namespace, and the switch between kernels and the reference.

`torch.library.Library` is used instead of `@custom_op` because the decorator adds about 25 us to each call on small
tensors, more than a whole inverse at batch 1.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._library.autograd import Info, make_autograd_impl

from nfkern.kernels.dispatch.op_transforms import Rows, through_definition, vmap_rule
from nfkern.kernels.dispatch.seeds import fake_over_seeds, of_seed, over_seeds

_library = torch.library.Library("nfkern", "DEF")
_ops: dict[str, "Op"] = {}
_kernels: dict[tuple[str, str], "Kernel"] = {}
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


class _Switch(threading.local):
    """Switches of this thread's calls: to the reference, and to definitions without ops."""

    forced = False
    inlined = False
    scans = False


_switch = _Switch()


class Op:
    """An op under two names: `name`, which kernels may override, and `name_reference`, which they may not."""

    def __init__(
        self,
        name: str,
        rank: int | None,
        rows: Rows | None,
        definition: Callable[..., Any],
        check: Callable[..., None],
        differentiable: bool,
    ) -> None:
        self.name, self.rows, self.definition, self.differentiable = name, rows, definition, differentiable
        self.dispatched = getattr(torch.ops.nfkern, name).default
        self.reference = getattr(torch.ops.nfkern, f"{name}_reference").default
        self._rank, self._check = rank, check
        self._arguments = [(each.name, str(each.type) == "Tensor") for each in self.dispatched._schema.arguments]

    def __call__(self, *args: Any) -> Any:
        """Run the kernel registered for the tensors' device, or the reference."""
        if _switch.inlined:
            return self.definition(*args)
        return (self.reference if _switch.forced else self.dispatched)(*args)

    def for_one_seed(self, *args: Any) -> Any:
        """Run a call without seeds: one dimension more is an error."""
        if getattr(args[0], "ndim", None) != self._rank:
            self._check(*args)
        return self(*args)

    def check(self, *args: Any) -> None:
        """Refuse arguments that the op is not defined for, with or without seeds.

        Raises:
            ValueError: a shape or a setting; the message names the argument.
            TypeError: what is no tensor, a dtype or a device.
        """
        for (name, required), arg in zip(self._arguments, args, strict=False):
            if arg is None and required:
                raise TypeError(f"{name}: expected a torch.Tensor, got None")
        first = args[0]
        if self._rank is None or not isinstance(first, torch.Tensor) or first.ndim <= self._rank:
            return self._check(*args)
        seeds = first.shape[0]
        if not seeds:
            raise ValueError(f"{self._arguments[0][0]}: expected seeds, got shape {tuple(first.shape)}")
        for (name, _), arg in zip(self._arguments, args, strict=False):
            if isinstance(arg, torch.Tensor) and (not arg.ndim or arg.shape[0] != seeds):
                of = self._arguments[0][0]
                raise ValueError(f"{name}: expected {seeds} seeds in front as {of} has, got shape {tuple(arg.shape)}")
        return self.check(*of_seed(args, 0))

    def check_devices(self, *args: Any) -> None:
        """Refuse tensors on several devices: with one on "meta", the results would be on another, without numbers.

        Raises:
            TypeError: the message names the argument.
        """
        first, device = self._arguments[0][0], getattr(args[0], "device", None)
        for (name, _), arg in zip(self._arguments, args, strict=False):
            if isinstance(arg, torch.Tensor) and arg.device != device:
                raise TypeError(f"{name}: expected a tensor on {device} as {first}, got one on {arg.device}")


@dataclass(frozen=True)
class Kernel:
    """A kernel of an op, for one type of device.

    Attributes:
        load: imports the kernel, a function of the op's arguments; called when it first runs.
        safe: whether the kernel itself refuses what the op's check refuses; what it says then does not matter.
        device_reasons: why no call can run on a device; empty if some can.
        call_reasons: of the op's arguments, why this call cannot run; empty if it can.
    """

    load: Callable[[], Callable[..., Any]]
    device_reasons: Callable[[torch.device], Sequence[str]]
    call_reasons: Callable[..., Sequence[str]]
    safe: bool = False


def kernel_or_reference(name: str, kernel: Kernel) -> Callable[..., Any]:
    """Return an op's kernel, with the reference for calls that it does not take; it gets all seeds at once."""
    op = _ops[name]

    def call(*args: Any) -> Any:
        if reasons := kernel.device_reasons(args[0].device):
            _say_once(args[0].device.type, "; ".join(reasons))
            return op.reference(*args)
        if kernel.call_reasons(*args):
            return op.reference(*args)
        return kernel.load()(*args)

    call, accepted = _without_autocast(call), set[tuple[Any, ...]]()

    def run(*args: Any) -> Any:
        if not kernel.safe and (signature := _signature(args)) not in accepted:
            op.check(*args)
            if len(accepted) >= MOST_ACCEPTED:
                accepted.clear()
            accepted.add(signature)
        try:
            return call(*args)
        except Exception:
            # In the check's own words, if these arguments are the reason.
            op.check(*args)
            raise

    return run


MOST_ACCEPTED = 1024
"""Signatures that an op remembers to have checked."""


def _signature(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return all that a check looks at on a GPU: contents it would have to wait for."""
    return tuple(
        (arg.shape, arg.dtype, arg.device, arg.layout) if isinstance(arg, torch.Tensor) else arg for arg in args
    )


def find_kernel(name: str, device_type: str) -> Kernel | None:
    """Return an op's kernel for a type of device, if it has one."""
    return _kernels.get((name, device_type))


@functools.cache
def _say_once(device_type: str, reasons: str) -> None:
    warnings.warn(
        f"nfkern runs on its reference on {device_type}, several times slower than its kernels: {reasons}",
        RuntimeWarning,
        stacklevel=2,
    )


def define(
    name: str,
    schema: str,
    rank: int | None,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    check: Callable[..., None],
    setup_context: Callable[..., None] | None = None,
    rows: Rows | None = None,
    differentiable_reference: bool = True,
    cpu: Kernel | None = None,
    cuda: Kernel | None = None,
) -> Op:
    """Define `nfkern::name` with its reference for every device, its fake kernel, its gradient and its vmap rule.

    Every op also takes all its tensors with one leading seed dimension more, and gives results that have it too: this
    is what `torch.vmap` calls, and how several seeds train in one launch.

    Args:
        name: the op's name; `{name}_reference` is defined beside it.
        schema: arguments and results, as in `(Tensor x) -> Tensor`; no argument may be mutated, the first is a tensor.
        rank: dimensions of the first tensor without seeds; None if any leading dimensions are alike to the op.
        reference: plain PyTorch, for one seed; it is the op's definition.
        fake: shapes, dtypes and devices of the results, without data, for one seed.
        backward: `(ctx, *grads) -> grads of the arguments`, with or without seeds; runs what the forward pass ran.
        check: of the op's arguments, for one seed; raises where the op is not defined for them. Whatever comes through
            the dispatcher is checked, for the reference and for kernels.
        setup_context: `(ctx, inputs, output)`, keeps what backward needs; None for ops that have no gradient.
        rows: where rows are, if `torch.vmap` over them may become one call with more rows.
        differentiable_reference: whether `torch.func` and forward-mode AD may go through the reference, operation by
            operation; else they are refused.
        cpu: its kernel on the CPU.
        cuda: its kernel on CUDA and ROCm devices.

    Returns:
        The callable op.
    """
    names = (name, f"{name}_reference")
    for qualified in names:
        _library.define(qualified + schema, tags=(torch.Tag.pt2_compliant_tag,))
    definition, fake = _without_autocast(over_seeds(reference, rank)), fake_over_seeds(fake, rank)
    op = _ops[name] = Op(name, rank, rows, definition, check, differentiable=setup_context is not None)

    def checked(*args: Any) -> Any:
        op.check(*args)
        return definition(*args)

    def without_data(*args: Any) -> Any:
        op.check_devices(*args)
        return fake(*args)

    for qualified in names:
        _library.impl(qualified, checked, "CompositeExplicitAutograd")
        called = getattr(torch.ops.nfkern, qualified).default
        again = _as_forward(backward, reference=qualified != name)
        plain = make_autograd_impl(called, Info(again, setup_context))
        differentiable = through_definition(name, plain, definition if differentiable_reference else None)
        _library.impl(qualified, differentiable, "Autograd", with_keyset=True)
        torch.library.register_fake(f"nfkern::{qualified}", without_data, lib=_library)
        torch.library.register_vmap(f"nfkern::{qualified}", vmap_rule(called, rows), lib=_library)
    for device_type, kernel in (("cpu", cpu), ("cuda", cuda)):
        if kernel is not None:
            _library.impl(name, kernel_or_reference(name, kernel), _KEYS[device_type])
            _kernels[name, device_type] = kernel
    return op


def _as_forward(backward: Callable[..., Any], reference: bool) -> Callable[..., Any]:
    """Return a backward that runs what its forward pass ran: no context reaches autograd's own threads."""

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Any) -> Any:
        with use_reference(reference):
            return backward(ctx, *grads)

    return run


def gathered(function: Callable[..., Any], before: int, first: Any, second: Any) -> Callable[..., Any]:
    """Gather what follows the first `before` arguments, flat in a schema, into the two named tuples of `function`."""
    after = before + len(first._fields)
    end = after + len(second._fields)

    def call(*args: Any) -> Any:
        return function(*args[:before], first(*args[before:after]), second(*args[after:end]), *args[end:])

    return call


def may_differentiate(arguments: Iterable[Any]) -> bool:
    """True if autograd may want gradients of such a call; of a tensor under `torch.vmap` it cannot be known."""

    def may(argument: Any) -> bool:
        if not isinstance(argument, torch.Tensor):
            return False
        if argument.requires_grad:
            return True
        return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(argument)

    return torch.is_grad_enabled() and any(map(may, arguments))


def refuse_gradient(what: str, instead: str = "detach its inputs") -> Callable[..., Any]:
    """Return a backward for ops without gradients: silent zeros would be worse than an error."""

    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise RuntimeError(f"nfkern: {what} is not differentiable; {instead}")

    return backward


def refuse_second_gradient(what: str) -> Callable[..., Any]:
    """Return a backward for the derivative of an op."""
    instead = "take second derivatives by torch.func alone, as torch.func.hessian or torch.func.grad twice"
    return refuse_gradient(f"the gradient of {what} (double backward)", instead)


def registered_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """Return the implementation that each op would run on `device`: `native` or `reference`."""
    device = torch.device(device)
    return {name: "reference" if backend_reasons(name, device) else "native" for name in _ops}


def backend_reasons(name: str, device: torch.device | str) -> list[str]:
    """Return the reasons for which an op would run its reference on `device`; empty if it would run a kernel."""
    device = torch.device(device)
    key = _KEYS.get(device.type)
    if key is None or not torch._C._dispatch_has_kernel_for_dispatch_key(f"nfkern::{name}", key):
        return ["this version has no kernel for it"]
    kernel = find_kernel(name, device.type)
    reasons = [] if kernel is None else list(kernel.device_reasons(device))
    return [*reasons, *(["use_reference() is in force"] if _switch.forced else [])]


def reference_forced() -> bool:
    """True while `use_reference()` is in force in this thread."""
    return _switch.forced


@contextlib.contextmanager
def use_reference(enabled: bool = True) -> Iterator[None]:
    """Run every op's reference inside this context, whatever kernels there are, in this thread alone.

    A backward pass runs what its forward pass ran, wherever it is called.
    """
    before, _switch.forced = _switch.forced, enabled
    try:
        yield
    finally:
        _switch.forced = before


@contextlib.contextmanager
def inline_definitions(*, scan: bool = False) -> Iterator[None]:
    """Run every op's definition operation by operation inside this context, in this thread: for exporters.

    What is exported then holds PyTorch's own operators alone, and needs no nfkern where it is loaded.

    Args:
        scan: whether loops over positions become PyTorch's `scan`, one step whatever their length, or are unrolled.
    """
    before = _switch.inlined, _switch.scans
    _switch.inlined, _switch.scans = True, scan
    try:
        yield
    finally:
        _switch.inlined, _switch.scans = before


def scans() -> bool:
    """Return whether loops are to become PyTorch's `scan` in this thread."""
    return _switch.scans


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep autocast out of an op's body: which products drop precision is the op's own `compute_dtype`."""

    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        device_type = args[0].device.type
        if device_type == "meta" or not torch.is_autocast_enabled(device_type):
            return function(*args)
        with torch.autocast(device_type, enabled=False):
            return function(*args)

    return guarded
