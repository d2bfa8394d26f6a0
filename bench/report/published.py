"""The tables that people read in README.md and docs/: which records stand in which cell.

The document says, at the marks around a table, which file it is made of.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from nfkern.bench.core.units import duration
from nfkern.bench.rivals.policies import OWN_WIDTH
from nfkern.bench.works.training_runs import STEPS
from nfkern.errors import UserError

Record = Mapping[str, Any]
"""A row of `frame.frame`."""
Variants = dict[str, tuple[str, ...]]
"""Variants by the title of their column, which shows the fastest."""


@dataclass(frozen=True)
class Published:
    """A table.

    Attributes:
        lines: by title, a row without its threads, and what the names of its variants begin with.
        columns: by title, what the names of the variants end with.
        head: of the column of titles.
        threads: a cell has a number for each that is recorded.
        quantities: by title of a column that does not show medians, its column of `frame.frame`, or "steps" a second.
    """

    lines: Mapping[str, tuple[str, str]]
    columns: Variants
    head: str = ""
    threads: tuple[int, ...] = (1,)
    quantities: Mapping[str, str] = field(default_factory=dict)

    def table(self, records: pl.DataFrame) -> list[list[str]]:
        """Return head and lines of one file's records, without columns of which nothing was measured.

        Raises:
            UserError: nothing was measured of a line.
        """
        lines = [[self.head, *self.columns]]
        for title, cells in self.fastest(records).items():
            lines.append([title])
            for column, cell in cells.items():
                quantity = self.quantities.get(column, "median_s")
                lines[-1].append(_joined([_text(each, quantity) for each in cell]))
        shown = [number for number in range(len(lines[0])) if any(line[number] for line in lines[1:])]
        return [[line[number] for number in shown] for line in lines]

    def fastest(self, records: pl.DataFrame) -> dict[str, dict[str, list[Record | None]]]:
        """Return the fastest record of each line and column, one for each number of threads that the line has.

        Raises:
            UserError: nothing was measured of a line.
        """
        timed = records.filter(pl.col("median_s").is_not_null())
        found = {(each["row"], each["variant"]): each for each in timed.iter_rows(named=True)}
        rows, lines = {row for row, _ in found}, {}
        for title, (name, start) in self.lines.items():
            here = [row for count in self.threads if (row := f"{name}-threads_{count}") in rows]
            lines[title] = {
                column: [_fastest(found[key] for end in ends if (key := (row, start + end)) in found) for row in here]
                for column, ends in self.columns.items()
            }
            if not any(any(cell) for cell in lines[title].values()):
                raise UserError(f"{name} has no number of {start or 'the variants'} that a table shows")
        return lines


def _fastest(records: Iterable[Record]) -> Record | None:
    return min(records, key=lambda each: float(each["median_s"]), default=None)


def _text(timed: Record | None, quantity: str) -> str:
    if timed is None:
        return ""
    if quantity == "steps":
        return f"{STEPS / timed['median_s']:.1f}"
    if quantity == "parameters":
        return f"{timed['parameters'] / 1e6:.2f} M"
    # Of few calls the far tail is not known.
    return "" if timed[quantity] is None else duration(timed[quantity])


def _joined(texts: Sequence[str]) -> str:
    """Return `1.02 / 0.52 ms`: with one unit where all have it; empty where nothing was measured."""
    if not any(texts):
        return ""
    *others, last = (text or "-" for text in texts)
    unit = last[last.find(" ") :] if " " in last else ""
    return " / ".join([*(text.removesuffix(unit) if unit else text for text in others), last])


def _rows(*groups: tuple[str, str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    """Return lines of works, in words, on a case at batch sizes; the paper's flow is not named."""
    lines = {}
    for works, case, batches in groups:
        shape = "" if case == "ogbench" else f", `{case}`"
        for batch in batches:
            for work in works.split():
                title = work.replace("_", " ").replace("log prob", "log_prob")
                lines[f"{title}{shape}, batch {batch}"] = (f"{work}-{case}-{batch}", "")
    return lines


def _of_one_row(row: str, variants: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {title: (row, variant) for title, variant in variants.items()}


_ACTING = "inverse log_prob denoised_action"
_FLOW = _rows(
    (_ACTING, "ogbench", (1,)),
    ("inverse denoised_action", "ogbench", (50,)),
    (_ACTING, "ogbench", (256,)),
    ("inverse", "ogbench", (4096, 65536)),
    ("training_step", "ogbench", (256,)),
)
_OVERVIEW = _rows(("inverse denoised_action", "ogbench", (1,)), ("inverse training_step", "ogbench", (256,)))
_QUICK = _rows((_ACTING, "ogbench", (1, 256)), ("training_step", "ogbench", (256,)))
_BESIDE_LIBRARIES = _rows(("inverse", "ogbench", (1,)), ("inverse log_prob training_step", "ogbench", (256,)))
_SHAPES = _rows(
    (_ACTING, "chunked", (1,)),
    ("inverse denoised_action", "chunked", (50,)),
    ("inverse log_prob training_step", "chunked", (256,)),
    ("inverse denoised_action", "ogbench_jax", (1,)),
    ("inverse", "ogbench_jax", (50, 256)),
    ("training_step", "ogbench_jax", (256,)),
    ("log_prob", "goal_density", (50, 256, 4096)),
    ("training_step", "goal_density", (256,)),
)
_CAUSAL = {f"inverse, batch {batch}": (f"causal_inverse-causal-{batch}", "") for batch in (1, 50, 256, 4096)}
_CAUSAL_DENSITY = {
    **{f"log_prob, batch {batch}": (f"causal_log_prob-causal-{batch}", "") for batch in (1, 50, 256)},
    "training step, batch 256": ("causal_training_step-causal-256", ""),
}
_LENGTHS = {
    str(tokens): (f"causal_inverse-causal{'' if tokens == 16 else f'_{tokens}'}-1", "")
    for tokens in (2, 4, 8, 16, 32, 256)
}
_POLICIES = {
    "a Gaussian's mean": "gaussian",
    "a mixture of 32 Gaussians": "mixture",
    "flow matching, 1 step": "flow_matching_1",
    "a policy distilled to one step": "distilled",
    "flow matching, 10 steps": "flow_matching_10",
    "DDIM, 10 steps": "ddim_10",
    "DDPM, 100 steps": "ddpm_100",
}
_FLOW_ACTING = {
    "eager": "eager",
    "torch.compile": "reference_compile",
    "AOTInductor": "reference_aot_inductor",
    "ONNX Runtime": "onnxruntime_one_sweep",
    "JAX, jitted": "jax_jit",
    "nfkern": "nfkern",
    "frozen": "nfkern_frozen",
    "frozen, bf16": "nfkern_frozen_bf16",
}
_GOAL_CONDITIONED = {
    "NF-GCBC": "nf_gcbc",
    "flow matching": "flow_matching_gcbc",
    "diffusion": "diffusion_gcbc",
    "Gaussian": "gaussian_gcbc",
}
_OFFLINE_RL = {
    "NF-RLBC": "nf_rlbc",
    "FQL": "fql",
    "IFQL": "ifql",
    "IQL": "iql",
    "ReBRAC": "rebrac",
    "diffusion Q-learning": "diffusion_ql",
}

_COMPILED: Variants = {
    "stacked, compiled": ("reference_compile",),
    "naive, compiled": ("eager_compile",),
    "stacked, autotuned": ("reference_max_autotune",),
    "naive, autotuned": ("eager_plu_once_max_autotune",),
    "package, stacked": ("reference_aot_inductor",),
    "package, naive": ("eager_plu_once_aot_inductor",),
}
_PACKAGES: Variants = {
    "eager": ("eager",),
    "torch.compile": ("eager_compile", "reference_compile", "reference_max_autotune", "eager_plu_once_max_autotune"),
    "AOTInductor": ("reference_aot_inductor", "eager_plu_once_aot_inductor"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime_one_sweep"),
    "JAX, jitted": ("jax_jit",),
}
_LIBRARIES: Variants = {
    "zuko": ("zuko",),
    "zuko, compiled": ("zuko_compile",),
    "nflows": ("nflows",),
    "nflows, compiled": ("nflows_compile",),
    "zuko, splines": ("zuko_nsf",),
    "zuko, splines, compiled": ("zuko_nsf_compile",),
    "normflows, splines": ("normflows",),
    "normflows, splines, compiled": ("normflows_compile",),
}
_OURS: Variants = {"nfkern": ("nfkern",), "frozen": ("nfkern_frozen",), "frozen, bf16": ("nfkern_frozen_bf16",)}
# Parts of the job: for single rows reading the weights, for more the products by torch.mm, which are no floor, for
# nfkern's own are faster.
_PARTS: Variants = {"weights read": ("weights_read",), "products alone": ("gemm",)}
_FORMS: Variants = {
    "eager": ("",),
    "torch.compile": ("_compile",),
    "AOTInductor": ("_aot_inductor",),
    "p99 of the fastest": ("", "_compile", "_aot_inductor"),
    f"width {OWN_WIDTH}, torch.compile": ("_compile_own_size",),
    f"width {OWN_WIDTH}, AOTInductor": ("_aot_inductor_own_size",),
}

PUBLISHED: dict[str, Published] = {
    "flow": Published(_FLOW, _PACKAGES | _OURS | _PARTS, threads=(1, 2)),
    "compilers": Published(_OVERVIEW, _COMPILED | _OURS),
    "libraries": Published(_BESIDE_LIBRARIES, {"eager": ("eager",), **_LIBRARIES, **_OURS}),
    "shapes": Published(_SHAPES, _PACKAGES | _OURS | _PARTS),
    "policies": Published(
        _of_one_row("control_loop-ogbench-1", _POLICIES), _FORMS, quantities={"p99 of the fastest": "p99_s"}
    ),
    "acting": Published(
        _of_one_row("control_loop-ogbench-1", _FLOW_ACTING),
        {"median": ("",), "p99": ("",), "p99.9": ("",)},
        quantities={"p99": "p99_s", "p99.9": "p999_s"},
    ),
    "paused": Published(
        _of_one_row("control_loop_after_pause-ogbench-1", _FLOW_ACTING | {"frozen, int8": "nfkern_frozen_int8"}),
        {"median": ("",), "p99": ("",)},
        quantities={"p99": "p99_s"},
    ),
    "evicted": Published(
        _of_one_row("control_loop_evicted-ogbench-1", _FLOW_ACTING),
        {"median": ("",), "p99": ("",)},
        quantities={"p99": "p99_s"},
    ),
    "quick": Published(_QUICK, _PACKAGES | _LIBRARIES | _OURS | _PARTS, threads=(1, 2)),
    "causal": Published(_CAUSAL, _PACKAGES | _OURS | _PARTS, threads=(1, 2)),
    "causal_density": Published(_CAUSAL_DENSITY, _PACKAGES | _OURS | _PARTS),
    # Its eager flows, compiled or exported too, multiply a token more than they have to.
    "causal_density_first": Published(_CAUSAL_DENSITY, {"JAX, jitted": ("jax_jit",), **_OURS, **_PARTS}),
    "lengths": Published(_LENGTHS, {**_PACKAGES, **_OURS, "Jacobi": ("nfkern_jacobi",), **_PARTS}, head="tokens"),
    "training": Published(
        _of_one_row("goal_conditioned_run-synthetic_100k-256", _GOAL_CONDITIONED)
        | _of_one_row("offline_rl_run-synthetic_100k-256", _OFFLINE_RL),
        {"steps a second": ("",), "parameters": ("",)},
        threads=(2,),
        quantities={"steps a second": "steps", "parameters": "parameters"},
    ),
}
"""By the name that the marks in a document have: a table of the records of the file that they name."""

SPEED = Published(_OVERVIEW, _PACKAGES | _OURS | _PARTS)
"""README's chart."""
OURS = tuple(_OURS)
"""Titles of the columns that are nfkern's own."""
PARTS = tuple(_PARTS)
"""Titles of the columns that do a part of the job."""
