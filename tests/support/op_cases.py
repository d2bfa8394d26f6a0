"""Every op's example arguments with gradients and with seeds, and coupling flows' tensors."""

import torch

from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.examples import examples
from support import flows


def problem(features=5, groups=3, per_group=2, dtype=torch.float64, bound=None, seed=0):
    flow = flows.make_flow(features=features, dtype=dtype, seed=seed)
    rows = groups * per_group
    x = torch.randn(rows, features, dtype=dtype)
    term = torch.randn(groups, flow.blocks, 2, flow.hidden[0], dtype=dtype)
    return flow, x, term, {"scale_bound": bound, "norm_eps": 1e-5}


def with_gradients(name, arguments):
    """The arguments of an op, those that it has gradients for as leaves that want them."""
    if not registry._ops[name].differentiable:
        return tuple(arguments)
    return tuple(
        a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments
    )


def examples_over_seeds(seeds=2):
    """The examples with a leading seed dimension on every tensor."""
    found = [examples(seed) for seed in range(seeds)]
    return {
        name: tuple(
            torch.stack(each) if isinstance(each[0], torch.Tensor) else each[0]
            for each in zip(*(example[name] for example in found), strict=True)
        )
        for name in found[0]
    }
