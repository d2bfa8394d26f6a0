"""Modules for exporters: their forward is the function, and autograd may see their tensors."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn

from nfkern.bench.core.declarations import Implementation


class Forward(nn.Module):
    """A function of a module's as a module of its own."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> Any:
        """The function's results."""
        return self.function(x, context)


def outside_inference_mode(build: Callable[..., Implementation]) -> Callable[..., Implementation]:
    """Exporters trace with autograd's machinery, which tensors made in inference mode cannot enter."""

    @wraps(build)
    def builder(*args: Any, **kwargs: Any) -> Implementation:
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    return builder
