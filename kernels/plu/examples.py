"""Example arguments of `compose`'s ops, and factors of matrices."""

import torch

from nfkern.kernels.dispatch.examples import Examples, normal


def factors(seed: int, blocks: int = 3, features: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return packed factors of well-conditioned matrices, and permutations."""
    lu = 0.6 / features**0.5 * normal(seed)(blocks, features, features) + 1.2 * torch.eye(features, dtype=torch.float64)
    order = torch.Generator().manual_seed(seed)
    return lu, torch.stack([torch.randperm(features, generator=order) for _ in range(blocks)])


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`."""
    new, found = normal(seed + 1), Examples()
    for variant, features, inverse in (("", 5, True), (" forward", 5, False), (" wide", 64, True)):
        lu, permutation = factors(seed, features=features)
        found |= {
            f"plu_compose{variant}": (lu, permutation, inverse),
            f"plu_compose_backward{variant}": (new(lu.shape), new(()), lu, permutation, inverse),
        }
    return found
