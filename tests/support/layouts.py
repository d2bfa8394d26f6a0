"""Arguments that lie otherwise in memory than one after the other, and what an op's fake kernel promises for them."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def transposed(tensor):
    return tensor if tensor.ndim < 2 else tensor.mT.contiguous().mT


def sliced(tensor):
    return tensor if not tensor.ndim else torch.stack([tensor, tensor], -1)[..., 0]


def expanded(tensor):
    return tensor if not tensor.ndim else tensor[:1].expand_as(tensor)


LAYOUTS = (transposed, sliced, expanded)


def relaid(arguments, layout):
    """The arguments with every tensor of numbers in a layout."""
    return [layout(a) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]


def broken_promises(op, arguments):
    """Results whose shape or strides are not those of the fake kernel: the compiler's code would read other numbers."""
    results = op(*arguments)
    with FakeTensorMode() as mode:
        promised = op(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments))
    pairs = zip(*((each if isinstance(each, tuple) else (each,)) for each in (results, promised)), strict=True)
    return [
        f"result {k}: {tuple(real.shape)} {real.stride()}, promised {tuple(fake.shape)} {fake.stride()}"
        for k, (real, fake) in enumerate(pairs)
        if real.shape != fake.shape or (real.numel() > 1 and real.stride() != fake.stride())
    ]
