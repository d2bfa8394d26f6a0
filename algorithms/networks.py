"""The multi-layer perceptron of the baselines."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(in_features: int, out_features: int, hidden: Sequence[int]) -> nn.Sequential:
    """Linear layers with GELU between them, initialised as in OGBench (Glorot uniform, zero bias).

    Args:
        in_features: size of the input.
        out_features: size of the output.
        hidden: widths of the hidden layers.

    Returns:
        (*batch, in_features) -> (*batch, out_features).
    """
    sizes = [in_features, *hidden, out_features]
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        linear = nn.Linear(size, following)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1])
