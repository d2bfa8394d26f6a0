"""The coupling flow's launches on a GPU. Each function equals its namesake in `reference.py`.

Tensors may have a leading seed dimension; then all of them have it.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from nfkern.kernels.coupling import triton_kernels, triton_step_kernels
from nfkern.kernels.coupling.parameters import CouplingParameters, Settings
from nfkern.kernels.dispatch.triton_backend import Launcher, dependent, float32_precision, launch, padded, programs

Arithmetic = Literal["ieee", "tf32", "half"]


@dataclass(frozen=True)
class LaunchConfig:
    """Sizes and resources of a kernel's programs.

    Attributes:
        tile: rows of a program.
        chunk1: K-chunk of the hidden product.
        chunk2: hidden units of a slice, or of an accumulator where one program does them all.
        warps: of a program.
        stages: of the software pipeline over K-chunks.
    """

    tile: int
    chunk1: int
    chunk2: int
    warps: int
    stages: int = 2


MANY = 1 << 62

# (kernel, arithmetic) -> (rows up to which it is used, configuration). Chosen by register budgets, see `nfkern bench
# resources`; not yet timed on a GPU.
LAUNCHES: dict[tuple[str, Arithmetic], tuple[tuple[int, LaunchConfig], ...]] = {
    ("flow", "ieee"): ((MANY, LaunchConfig(64, 16, 128, 8)),),
    ("flow", "tf32"): ((MANY, LaunchConfig(64, 32, 128, 8)),),
    ("flow", "half"): ((MANY, LaunchConfig(64, 32, 128, 8)),),
    ("step", "ieee"): (
        (64, LaunchConfig(16, 32, 16, 4)),
        (1024, LaunchConfig(16, 32, 32, 4)),
        (MANY, LaunchConfig(32, 16, 64, 8)),
    ),
    ("step", "tf32"): (
        (64, LaunchConfig(16, 32, 16, 4)),
        (1024, LaunchConfig(16, 32, 32, 4)),
        (MANY, LaunchConfig(64, 32, 64, 8)),
    ),
    ("step", "half"): (
        (64, LaunchConfig(16, 32, 16, 4)),
        (1024, LaunchConfig(16, 32, 32, 4)),
        (MANY, LaunchConfig(64, 32, 64, 8)),
    ),
}

STEP_ROWS = 512
"""Rows up to which a map takes one launch a block, with hidden units split over programs; beyond, it takes one."""


class Problem(NamedTuple):
    """A call's tensors with their seed dimension, contiguous, and its weights folded."""

    seeds: int
    rows: int
    groups: int
    term: torch.Tensor
    mixing: torch.Tensor
    folded: tuple[torch.Tensor, ...]  # input_weight, hidden_weight, hidden_bias, output_weight, output_bias
    arithmetic: Arithmetic
    precision: str  # `input_precision` of products in float32
    constants: dict[str, Any]  # of the kernels
    numbers: tuple[float, float]  # norm_eps, scale_bound

    def config(self, kernel: str) -> LaunchConfig:
        """Return the table's entry for a kernel."""
        return next(config for limit, config in LAUNCHES[kernel, self.arithmetic] if self.rows <= limit)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return uninitialised memory of a shape."""
        return torch.empty(shape, dtype=dtype, device=self.term.device)

    def states(self) -> torch.Tensor:
        """Memory for a state of every block: (seeds, blocks, rows, features)."""
        return self.new(self.seeds, self.constants["BLOCKS"], self.rows, self.constants["FEATURES"])


def to_latent(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """Data to noise; see the reference."""
    return _map(False, x, *rest)


def to_data(z: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """Noise to data; see the reference."""
    return _map(True, z, *rest)


def _map(
    to_data: bool,
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, ...]:
    p = problem(x, context_term, mixing, *rest)
    source, log_det_in = seeded(x, 2), seeded(mixing_log_det, 0)
    if p.rows <= STEP_ROWS:
        chain = ForwardChain(p, to_data, source, log_det_in)
        for step in range(p.constants["BLOCKS"] + 1):
            chain.run(step)
        return unseeded(x, chain.result, chain.log_det, chain.inputs)
    result, log_det, inputs = torch.empty_like(source), p.new(*source.shape[:2]), p.states()
    config = p.config("flow")
    launch(
        triton_kernels.flow_kernel, (programs(p.rows, config.tile), p.seeds),
        source, p.term, p.mixing, log_det_in, *p.folded, result, log_det, inputs, p.rows, p.groups, *p.numbers,
        **p.constants, **tiles(config, p), TO_DATA=to_data,
    )  # fmt: skip
    return unseeded(x, result, log_det, inputs)


class ForwardChain:
    """The launches of one direction, a block each; `run` takes them in turn.

    With `save`, each leaves in `hidden` what the derivative of its block needs, until the next one runs.
    """

    def __init__(
        self, p: Problem, to_data: bool, source: torch.Tensor, log_det_in: torch.Tensor, save: bool = False
    ) -> None:
        blocks = p.constants["BLOCKS"]
        self.p, self.result, self.log_det = p, torch.empty_like(source), p.new(*source.shape[:2])
        self.inputs, self.mixed = p.states(), p.states()
        self.hidden = h = Hidden.allocate(p, blocks, 1 if save else 0)
        self.launcher = Launcher(
            triton_step_kernels.forward_step_kernel,
            source, p.term, p.mixing, log_det_in, *p.folded, self.inputs, self.mixed, p.new(*self.inputs.shape[:3]),
            self.result, self.log_det, *h.tensors, p.rows, p.groups, *p.numbers, 0, blocks,
            **p.constants, **tiles(h.config, p), **dependent(p.term.device), TO_DATA=to_data, CHAIN=True, SAVE=save,
            SLICES=h.slices,
        )  # fmt: skip

    def run(self, step: int) -> None:
        """Finish the block before `step` and begin the next."""
        p, h = self.p, self.hidden
        slices = 1 if step == p.constants["BLOCKS"] else 2 * h.slices
        self.launcher((programs(p.rows, h.config.tile), slices, p.seeds), step)


class Hidden(NamedTuple):
    """Memory in which the slices of networks leave results for each other and for the derivatives."""

    config: LaunchConfig
    slices: int
    saved: torch.Tensor  # (seeds, saves, 2, rows, h2) preactivations
    layer1: torch.Tensor  # (seeds, saves, 2, rows, 2) mean and 1 / deviation
    outputs: torch.Tensor  # (seeds, slots, 2, slices, rows, transformed) parts of the output
    sums: torch.Tensor  # (seeds, slots, 2, slices, rows, 2) parts of layer 2's sums of activations and squares

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors in the order in which the kernels take them."""
        return self[2:]

    @classmethod
    def allocate(cls, p: Problem, slots: int, saves: int) -> "Hidden":
        """Return uninitialised memory."""
        config, width2 = p.config("step"), p.constants["WIDTH2"]
        slices = programs(width2, min(config.chunk2, padded(width2)))
        return cls(
            config,
            slices,
            p.new(p.seeds, saves, 2, p.rows, width2),
            p.new(p.seeds, saves, 2, p.rows, 2),
            p.new(p.seeds, slots, 2, slices, p.rows, p.constants["FEATURES"] // 2),
            p.new(p.seeds, slots, 2, slices, p.rows, 2),
        )


def problem(
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
) -> Problem:
    """Sort a call's arguments; `x` is (rows, features), or has seeds in front as everything else then has."""
    term = seeded(context_term, 4)
    features, (width2, width1) = mixing.shape[-1], parameters.hidden_weight.shape[-2:]
    hidden_dtype, bound = settings.compute_dtype or torch.float32, settings.scale_bound
    half = hidden_dtype != torch.float32
    precision = float32_precision(half)
    constants = {
        "BLOCKS": mixing.shape[-3],
        "FEATURES": features,
        "WIDTH1": width1,
        "WIDTH2": width2,
        "KEPT": padded((features + 1) // 2),
        "TRANSFORMED": padded(features // 2),
        "BOUNDED": bound is not None,
    }
    return Problem(
        seeds=term.shape[0],
        rows=x.shape[-2],
        groups=term.shape[1],
        term=term,
        mixing=seeded(mixing, 3),
        folded=_fold(parameters, hidden_dtype),
        arithmetic="half" if half else "tf32" if precision == "tf32" else "ieee",
        precision=precision,
        constants=constants,
        numbers=(settings.norm_eps, 1.0 if bound is None else bound),
    )


def _fold(p: CouplingParameters, hidden_dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return the weights that the kernels take: LayerNorm's folded into the next product, rows centred."""
    hidden, output = [p.hidden_weight, p.hidden_bias], [p.output_weight, p.output_bias]
    first = p.input_weight.contiguous()
    if p.folded:
        return first, hidden[0].to(hidden_dtype).contiguous(), *(each.contiguous() for each in (hidden[1], *output))
    hidden, norm1, output, norm2 = (
        [each.contiguous() for each in layer if each is not None]
        for layer in (hidden, (p.norm1_weight, p.norm1_bias), output, (p.norm2_weight, p.norm2_bias))
    )
    folded = [torch.empty_like(hidden[0], dtype=hidden_dtype), *map(torch.empty_like, (hidden[1], *output))]
    *_, width2, width1 = hidden[0].shape
    nets, moved = hidden[0][..., 0, 0].numel(), output[0].shape[-2]
    tile1, tile2 = (max(1, 2048 // padded(width)) for width in (width1, width2))
    launch(
        triton_kernels.fold_kernel, (max(programs(nets * width2, tile1), programs(nets * moved, tile2)), 2),
        *hidden, *norm1, *folded[:2], *output, *norm2, *folded[2:], nets, MOVED=moved, WIDTH1=width1, WIDTH2=width2,
        PADDED1=padded(width1), PADDED2=padded(width2), TILE1=tile1, TILE2=tile2,
    )  # fmt: skip
    return (first, *folded)


def tiles(config: LaunchConfig, p: Problem) -> dict[str, Any]:
    """An entry of the table as the kernels' arguments, cut down to the problem's widths."""
    return {
        "TILE": config.tile,
        "CHUNK1": min(config.chunk1, padded(p.constants["WIDTH1"]), padded(p.constants["WIDTH2"])),
        "CHUNK2": min(config.chunk2, padded(p.constants["WIDTH2"])),
        "PRECISION": p.precision,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }


def seeded(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the tensor with a seed dimension in front of `rank` others, contiguous."""
    return (tensor if tensor.ndim > rank else tensor.unsqueeze(0)).contiguous()


def unseeded(like: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tensors without the seed dimension if `like`, (rows, D), has none."""
    return tensors if like.ndim == 3 else tuple(tensor.squeeze(0) for tensor in tensors)
