"""Definition of ops in the `nfkern` namespace, and the switch between native kernels and the reference.

`torch.library.Library` is used instead of `@custom_op` because the decorator adds about 25 us to each call on small
tensors, more than a whole native inverse at batch 1.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._library.autograd import Info, make_autograd_impl
from torch.utils._pytree import tree_map_only

from nfkern.kernels.op_transforms import Rows, through_definition, vmap_rule

_library = torch.library.Library("nfkern", "DEF")
_ops: dict[str, "Op"] = {}
_natives: dict[tuple[str, str], "Native"] = {}
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}
_reference_forced = False


class Op:
    """An op under two names: `name`, which native kernels may override, and `name_reference`, which they may not."""

    def __init__(self, name: str, rows: "Rows | None" = None) -> None:
        self.name, self.rows = name, rows
        self.dispatched = getattr(torch.ops.nfkern, name).default
        self.reference = getattr(torch.ops.nfkern, f"{name}_reference").default

    def __call__(self, *args: Any) -> Any:
        """Run the native kernel registered for the tensors' device, or the reference."""
        return (self.reference if _reference_forced else self.dispatched)(*args)


@dataclass(frozen=True)
class Native:
    """A native kernel of an op, for one type of device.

    Attributes:
        load: imports the kernel, a function of the op's arguments; called when it first runs.
        device_reasons: why no call can run on a device; empty if some can.
        call_reasons: of the op's arguments, why this call cannot run; empty if it can.
    """

    load: Callable[[], Callable[..., Any]]
    device_reasons: Callable[[torch.device], Sequence[str]]
    call_reasons: Callable[..., Sequence[str]]


def implement(name: str, device_type: str, native: Native) -> None:
    """Let `nfkern::name` run a native kernel on a type of device, and its reference where that cannot."""
    _library.impl(name, native_or_reference(name, native), _KEYS[device_type])
    _natives[name, device_type] = native


def native_or_reference(name: str, native: Native) -> Callable[..., Any]:
    """An op's native kernel, giving way to the reference; with seeds in front, the kernel gets them all at once."""
    reference = _ops[name].reference

    def run(*args: Any) -> Any:
        if native.device_reasons(args[0].device) or native.call_reasons(*args):
            return reference(*args)
        return native.load()(*args)

    return _without_autocast(run)


def define(
    name: str,
    schema: str,
    rank: int | None,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    rows: Rows | None = None,
    differentiable_reference: bool = True,
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
        backward: `(ctx, *grads) -> grads of the arguments`, with or without seeds.
        setup_context: `(ctx, inputs, output)`, keeps what backward needs.
        rows: where rows are, if `torch.vmap` over them may become one call with more rows.
        differentiable_reference: whether `torch.func` and forward-mode AD may go through the reference, operation by
            operation; else they are refused.

    Returns:
        The callable op.
    """
    for qualified in (name, f"{name}_reference"):
        _library.define(qualified + schema, tags=(torch.Tag.pt2_compliant_tag,))
        definition = _without_autocast(over_seeds(reference, rank))
        _library.impl(qualified, definition, "CompositeExplicitAutograd")
        op = getattr(torch.ops.nfkern, qualified).default
        plain = make_autograd_impl(op, Info(backward, setup_context))
        kernel = through_definition(name, plain, definition if differentiable_reference else None)
        _library.impl(qualified, kernel, "Autograd", with_keyset=True)
        torch.library.register_fake(f"nfkern::{qualified}", _fake_over_seeds(fake, rank), lib=_library)
        torch.library.register_vmap(f"nfkern::{qualified}", vmap_rule(op, rows), lib=_library)
    _ops[name] = Op(name, rows)
    return _ops[name]


def over_seeds(function: Callable[..., Any], rank: int | None) -> Callable[..., Any]:
    """A kernel for one seed as one that also takes a leading seed dimension on every tensor: seed by seed, stacked."""

    @functools.wraps(function)
    def looped(*args: Any) -> Any:
        if rank is None or args[0].ndim <= rank:
            return function(*args)
        results = [looped(*_of_seed(args, seed)) for seed in range(args[0].shape[0])]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results)
        return tuple(torch.stack(each) for each in zip(*results, strict=True))

    return looped


def gathered(function: Callable[..., Any], before: int, kind: Any) -> Callable[..., Any]:
    """A schema is flat: gather what follows the first `before` arguments into the named tuple that `function` takes."""
    after = before + len(kind._fields)

    def call(*args: Any) -> Any:
        return function(*args[:before], kind(*args[before:after]), *args[after:])

    return call


def _fake_over_seeds(fake: Callable[..., Any], rank: int | None) -> Callable[..., Any]:
    """`over_seeds` for a fake kernel: every seed's results have the first one's shapes."""

    def stacked(*args: Any) -> Any:
        if rank is None or args[0].ndim <= rank:
            return fake(*args)
        results = stacked(*_of_seed(args, 0))
        return tree_map_only(torch.Tensor, lambda each: each.new_empty((args[0].shape[0], *each.shape)), results)

    return stacked


def _of_seed(args: tuple[Any, ...], seed: int) -> list[Any]:
    return [arg.select(0, seed) if isinstance(arg, torch.Tensor) else arg for arg in args]


def may_differentiate(arguments: Iterable[Any]) -> bool:
    """Whether autograd may want gradients of such a call; a tensor under `torch.vmap` does not tell."""

    def may(argument: Any) -> bool:
        if not isinstance(argument, torch.Tensor):
            return False
        if argument.requires_grad:
            return True
        return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(argument)

    return torch.is_grad_enabled() and any(map(may, arguments))


def refuse_gradient(what: str, instead: str = "detach its inputs") -> Callable[..., Any]:
    """A backward for ops that have none: silent zero gradients would be worse than an error."""

    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise RuntimeError(f"nfkern: {what} is not differentiable; {instead}")

    return backward


def refuse_second_gradient(what: str) -> Callable[..., Any]:
    """A backward for the derivative of an op."""
    instead = "take second derivatives by torch.func alone, as torch.func.hessian or torch.func.grad twice"
    return refuse_gradient(f"the gradient of {what} (double backward)", instead)


def registered_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """Which implementation each op would run on `device`: `native` or `reference`."""
    device = torch.device(device)
    return {name: "reference" if backend_reasons(name, device) else "native" for name in _ops}


def backend_reasons(name: str, device: torch.device | str) -> list[str]:
    """Why an op would run its reference on `device`; empty if it would run a native kernel."""
    device = torch.device(device)
    key = _KEYS.get(device.type)
    if key is None or not torch._C._dispatch_has_kernel_for_dispatch_key(f"nfkern::{name}", key):
        return ["this version has no native kernel for it"]
    native = _natives.get((name, device.type))
    reasons = [] if native is None else list(native.device_reasons(device))
    return [*reasons, *(["use_reference() is in force"] if _reference_forced else [])]


def reference_forced() -> bool:
    """Whether `use_reference()` is in force."""
    return _reference_forced


@contextlib.contextmanager
def use_reference(enabled: bool = True) -> Iterator[None]:
    """Run every op's reference inside this context, for the whole process, whatever native kernels there are."""
    global _reference_forced
    before, _reference_forced = _reference_forced, enabled
    try:
        yield
    finally:
        _reference_forced = before


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep autocast out of an op's body: which products drop precision is the op's own `compute_dtype`."""

    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        device_type = args[0].device.type
        if not torch.is_autocast_enabled(device_type):
            return function(*args)
        with torch.autocast(device_type, enabled=False):
            return function(*args)

    return guarded
