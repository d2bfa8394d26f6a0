"""Triton kernels that nfkern would launch in every configuration of the launch table, found without a GPU.

The host functions themselves are run on tensors without data, so that what is listed is what would run.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton

from nfkern.bench.core.cases import CausalCase, FlowCase
from nfkern.bench.problems.causal_problem import random_causal_flow
from nfkern.kernels import CausalParameters, CouplingParameters
from nfkern.kernels.affine import triton_launch as causal_affine
from nfkern.kernels.base import triton_launch as base
from nfkern.kernels.causal import triton_launch as causal
from nfkern.kernels.causal.reference import Settings as CausalSettings
from nfkern.kernels.coupling import triton_derivatives, triton_launch
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.coupling.triton_launch import Arithmetic
from nfkern.kernels.dispatch.triton_backend import recording
from nfkern.kernels.plu import triton_launch as plu

ROWS = (1, 256, 600, 5000)
"""Numbers of rows that between them use every entry of both `LAUNCHES`."""

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "i64": torch.int64,
}
"""Triton's names."""


FLAGS = (
    "CHAIN", "SAVE", "STORE", "BOUNDED", "INVERSE", "NORM", "GELU", "RESIDUAL", "PREFIX", "GUIDED", "MOVE", "EMBED",
    "FLIPPED",
)  # fmt: skip
"""Constants that switch something on in a kernel."""


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
        """The map and what else is switched on, as in `to_data save`."""
        constants = dict(self.constants)
        words = [constants["MODE"]] if "MODE" in constants else []
        if "TO_DATA" in constants:
            words.append("to_data" if constants["TO_DATA"] else "to_latent")
        return " ".join([*words, *(flag.lower() for flag in FLAGS if constants.get(flag))])

    @property
    def launch(self) -> str:
        """Tile, chunks, warps and stages."""
        constants, options = dict(self.constants), dict(self.options)
        sizes = [str(constants[name]) for name in ("TILE", "CHUNK1", "CHUNK2") if name in constants]
        extent = f"{options.get('num_warps', 4)}w {options.get('num_stages', 3)}s"
        return f"{'x'.join(sizes)} {extent}".strip()

    @property
    def products(self) -> bool:
        """Whether it has matrix products, which `arithmetic` is about."""
        return "PRECISION" in dict(self.constants)


def compilations(
    cases: tuple[FlowCase | CausalCase, ...],
    arithmetics: tuple[Arithmetic, ...],
    rows: tuple[int, ...] = ROWS,
    pdl: bool = False,
) -> list[Compilation]:
    """Every kernel that flows of these shapes need, once each.

    Args:
        cases: shapes; of the first, and of causal flows, flows with bounded log_scale too.
        arithmetics: of the products.
        rows: numbers of rows.
        pdl: as on hardware with programmatic dependent launch.
    """
    found: dict[tuple[Any, ...], Compilation] = {}
    for case in cases:
        for arithmetic in arithmetics:
            with recording() as launches, _arithmetic(arithmetic):
                for count in rows:
                    if isinstance(case, CausalCase):
                        _run_causal(case, arithmetic, count)
                        continue
                    for bound in (None, 2.0) if case is cases[0] else (None,):
                        _run_everything(case, arithmetic, count, bound)
            for launch in launches:
                options = dict(launch.options)
                if pdl and "PDL" in options:
                    # As `triton_backend.dependent` says on a GPU that has it.
                    options |= {"PDL": True, "launch_pdl": True}
                each = _compilation(launch.kernel, launch.args, options, arithmetic, case.name)
                found.setdefault(each.key, each)
    return list(found.values())


def _run_everything(case: FlowCase, arithmetic: Arithmetic, rows: int, bound: float | None) -> None:
    features, blocks, (width1, width2) = case.features, case.blocks, case.hidden

    def new(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    term, matrices, one, states = new(rows, blocks, 2, width1), new(blocks, features, features), new(), new(rows)
    x, inputs, kept, moved = new(rows, features), new(blocks, rows, features), (features + 1) // 2, features // 2
    parameters = CouplingParameters(
        new(blocks, 2, width1, kept), new(blocks, 2, width1), new(blocks, 2, width1), new(blocks, 2, width2, width1),
        new(blocks, 2, width2), new(blocks, 2, width2), new(blocks, 2, width2), new(blocks, 2, moved, width2),
        new(blocks, 2, moved),
    )  # fmt: skip
    settings = (parameters, Settings(case.norm_eps, bound, torch.bfloat16 if arithmetic == "half" else None))
    triton_launch.to_latent(x, term, matrices, one, *settings)
    triton_launch.to_data(x, term, matrices, one, *settings)
    triton_derivatives.to_data_with_score(x, term, matrices, matrices, one, *settings)
    for parameter_grads in (False, True):
        triton_derivatives.to_latent_backward(x, states, inputs, term, matrices, *settings, parameter_grads)
        triton_derivatives.to_data_backward(x, states, inputs, term, matrices, *settings, parameter_grads)
    permutation = torch.empty(blocks, features, dtype=torch.int64, device="meta")
    for inverse in (False, True):
        plu.compose(matrices, permutation, inverse)
        plu.compose_backward(matrices, one, matrices, permutation, inverse)
    base.standard_normal_log_prob(x)
    base.standard_normal_log_prob_backward(states, x)


def _run_causal(case: CausalCase, arithmetic: Arithmetic, rows: int) -> None:
    # Two blocks, one of them flipped, of one layer launch what all blocks and layers launch.
    flow = random_causal_flow(replace(case, blocks=2, layers=1)).to("meta")
    parameters = CausalParameters(*(getattr(flow, name).detach() for name in CausalParameters._fields))
    x, term, states = (
        torch.empty(shape, device="meta") for shape in ((rows, case.tokens, case.features), (rows, 2, case.width), rows)
    )
    for prefix, bound in ((False, None), (True, 2.0)):
        settings = CausalSettings(flow.heads, prefix, 1e-5, bound, torch.bfloat16 if arithmetic == "half" else None)
        causal.to_latent(x, term, parameters, settings)
        # All positions launch the same kernels; so many are as many keys as a program takes at once.
        short = x[:, :34]
        causal.to_data(short, term, parameters, settings)
        causal.to_data(short, term, parameters, settings, term[:1], 1.5, True)
        pairs = torch.empty(rows, case.tokens - 1 + prefix, 2, case.features, device="meta")
        for flipped in (False, True):
            causal_affine.causal_affine_backward(x, states, x, pairs, flipped, bound)


def _compilation(
    kernel: Any, args: tuple[Any, ...], options: dict[str, Any], arithmetic: Arithmetic, case: str
) -> Compilation:
    compiled = _compiled(kernel)
    given = dict(zip(kernel.arg_names, args, strict=False)) | options
    defaults = {p.name: p.default for p in compiled.params if p.has_default}
    signature, constants, aligned = [], [], []
    for index, parameter in enumerate(compiled.params):
        value = given[parameter.name] if parameter.name in given else defaults[parameter.name]
        kind = "constexpr" if parameter.is_constexpr else _type(value, parameter.do_not_specialize)
        signature.append((parameter.name, kind))
        if kind == "constexpr":
            constants.append((parameter.name, value))
        elif not parameter.do_not_specialize and (kind[0] == "*" or (kind[0] == "i" and value % 16 == 0)):
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


@functools.cache
def _compiled(kernel: Any) -> Any:
    """Return the kernel as Triton would compile it, also where it interprets."""
    return kernel if isinstance(kernel, triton.JITFunction) else triton.JITFunction(kernel.fn, **kernel.kwargs)


def _type(value: Any, general: bool) -> str:
    """Triton's name of an argument's type; a `general` integer is compiled once for all values."""
    if isinstance(value, torch.Tensor):
        return "*" + next(name for name, dtype in DTYPES.items() if dtype == value.dtype)
    if isinstance(value, float):
        return "fp32"
    if value == 1 and not general:
        return "constexpr"
    return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


@contextmanager
def _arithmetic(arithmetic: Arithmetic) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32" if arithmetic == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
