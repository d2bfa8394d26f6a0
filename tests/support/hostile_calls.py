"""A script: valid calls of every op with one argument spoiled, native and reference alike. Says "done" and how many.

    PYTHONPATH=.:tests python -m support.hostile_calls [CALLS] [SEED]

Each call must raise an error that names an argument, or give what the reference gives; a crash ends the process, after
its last line has said which call it was.
"""

import random
import sys
from collections import Counter

import torch

from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.examples import examples

NAN, INFINITY = float("nan"), float("inf")


def narrower(tensor, choose):
    axis = choose(range(tensor.ndim))
    return tensor.narrow(axis, 0, max(tensor.shape[axis] - 1, 0))


def wider(tensor, choose):
    axis = choose(range(tensor.ndim))
    return torch.cat([tensor, tensor.narrow(axis, 0, min(1, tensor.shape[axis]))], axis)


def emptied(tensor, choose):
    return tensor.narrow(choose(range(tensor.ndim)), 0, 0)


def strided(tensor, choose):
    return torch.stack([tensor, tensor], -1)[..., 0]


def expanded(tensor, choose):
    axis = choose(range(tensor.ndim))
    return tensor.narrow(axis, 0, 1).expand_as(tensor)


def turned(tensor, choose):
    return tensor.transpose(choose(range(tensor.ndim)), choose(range(tensor.ndim)))


def spoiled(tensor, choose):
    broken = tensor.clone()
    broken.view(-1)[choose(range(tensor.numel()))] = choose([NAN, INFINITY, -INFINITY])
    return broken


DTYPES = (torch.int8, torch.bool, torch.complex64, torch.float16, torch.bfloat16, torch.float32, torch.float64)
TENSORS = {
    "None": lambda tensor, choose: None,
    "row": lambda tensor, choose: tensor[0],
    "unsqueezed": lambda tensor, choose: tensor.unsqueeze(choose(range(tensor.ndim + 1))),
    "narrower": narrower,
    "wider": wider,
    "emptied": emptied,
    "scalar": lambda tensor, choose: tensor.new_zeros(()),
    "dtype": lambda tensor, choose: tensor.to(choose(DTYPES)),
    "strided": strided,
    "expanded": expanded,
    "turned": turned,
    "negative": lambda tensor, choose: torch._neg_view(tensor),
    "zero": lambda tensor, choose: torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype),
    "sparse": lambda tensor, choose: tensor.to_sparse(),
    "meta": lambda tensor, choose: tensor.to("meta"),
    "spoiled": spoiled,
    "out of range": lambda tensor, choose: tensor + (0.01 if tensor.is_floating_point() else choose([1, -1, 1 << 40])),
    "list": lambda tensor, choose: tensor.tolist(),
}
SETTINGS = {
    float: (0.0, -0.0, -1.0, NAN, INFINITY, -INFINITY, 1e300, 1e-320, None, "1"),
    int: (0, -1, 3, 1 << 62, None, 1.5),
    bool: (True, False, None, 2),
    torch.dtype: (*DTYPES, torch.float8_e5m2, torch.complex128, torch.int64, None, "float32"),
}


def spoil(arguments, choose):
    """Spoil one of a call's arguments; return them and what was done."""
    which = choose(range(len(arguments)))
    given = arguments[which]
    if isinstance(given, torch.Tensor):
        name = choose(list(TENSORS))
        try:
            changed = TENSORS[name](given, choose)
        except (IndexError, RuntimeError):
            # Not of every tensor.
            name, changed = "None", None
    else:
        # An argument that may be None has no type of its own.
        changed = choose(SETTINGS.get(type(given)) or (0.0, NAN, torch.int8, torch.zeros(3), "x"))
        name = repr(changed)
    return which, name, (*arguments[:which], changed, *arguments[which + 1 :])


def cases():
    """Valid calls: (op, arguments), in float64 and float32, whole and folded, with products in bfloat16."""
    for variant in ("", "kept", "folded", "folded bfloat16"):
        for name, arguments in examples(variant=variant).items():
            yield name, arguments
            yield (
                name,
                tuple(a.float() if isinstance(a, torch.Tensor) and a.dtype == torch.float64 else a for a in arguments),
            )


def outcome(op, arguments):
    """A call's results, or the error."""
    try:
        results = op(*arguments)
    except Exception as error:
        return error
    return results if isinstance(results, tuple) else (results,)


def check(name, arguments):
    """Native and reference: an error that names an argument from both, or the same results."""
    op = registry._ops[name]
    names = [argument.name for argument in op.dispatched._schema.arguments]
    native, expected = (outcome(each, arguments) for each in (op.dispatched, op.reference))
    if isinstance(native, Exception) or isinstance(expected, Exception):
        assert type(native) is type(expected), (native, expected)
        for error in (native, expected):
            assert any(each in str(error) for each in [*names, "parameters"]), f"names no argument: {error!r}"
        return "refused"
    half = any(a in (torch.bfloat16, torch.float16) for a in arguments)
    half |= any(isinstance(a, torch.Tensor) and a.dtype.itemsize == 2 for a in arguments)
    for found, wanted in zip(native, expected, strict=True):
        assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)
        if found.is_meta:
            continue
        # Where a number is not finite, kernels and reference may differ in how far it spreads.
        finite = wanted.isfinite()
        found, wanted = found[finite], wanted[finite]
        assert found.isfinite().all()
        if not half:
            tolerance = 1e-4 if found.dtype == torch.float32 else 1e-9
            # What cancels to zero is rounding of numbers of about 1: columns of a weight that are all the same do that.
            scale = max(float(wanted.abs().max()), 1e-3) if wanted.numel() else 0.0
            floor = max(tolerance * scale, 8 * torch.finfo(found.dtype).eps)
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=floor)
    return "equal"


def main(calls, seed):
    choose, valid = random.Random(seed).choice, list(cases())
    for name, arguments in valid:
        assert check(name, arguments) == "equal", name
    counted = Counter()
    for call in range(calls):
        name, arguments = valid[call % len(valid)]
        which, what, changed = spoil(arguments, choose)
        print(f"{name}, argument {which}: {what}", flush=True)
        counted[check(name, changed)] += 1
    print("done:", dict(counted))


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*map(int, sys.argv[1:3] or ("400", "0")))
