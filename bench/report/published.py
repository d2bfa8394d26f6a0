"""The tables that people read in README.md and docs/: which records stand in which cell.

A variant's time is the median of its record. Of several variants in one column the fastest is shown, with several
thread counts a cell has one time for each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Quantiles
from nfkern.bench.core.units import duration
from nfkern.bench.rivals.policies import OWN_WIDTH
from nfkern.bench.works.training_runs import STEPS
from nfkern.errors import UserError

Table = list[list[str]]
"""Head and rows."""

Rows = Mapping[str, Sequence[Record]]
"""Records by the names of their rows."""


@dataclass(frozen=True)
class Published:
    """A table of a document.

    Args:
        document: the file, seen from the checkout.
        records: name of the file in `bench/results/`.
        make: of those records, the table.
    """

    document: str
    records: str
    make: Callable[[Rows], Table]


def times(
    rows: Rows,
    titles: Mapping[str, str],
    columns: Mapping[str, tuple[str, ...]],
    head: str = "",
    threads: tuple[int, ...] = (1,),
    floor: bool = False,
) -> Table:
    """Medians; a column of which nothing was measured is left out.

    Args:
        rows: the records.
        titles: the table's lines, each with the name of its rows up to the threads.
        columns: the variants of each.
        head: of the first column.
        threads: one time for each that is recorded.
        floor: whether the last column has the floor: reading the weights for a single row, the products for others.
    """
    table = [[head, *columns, *(["floor"] if floor else [])]]
    for title, name in titles.items():
        floors = ("weights_read",) if name.endswith("-1") else ("gemm",)
        wanted = (*columns.values(), *([floors] if floor else []))
        found = [rows[f"{name}-threads_{count}"] for count in threads if f"{name}-threads_{count}" in rows]
        table.append([title, *(_cell([_fastest(row, variants) for row in found]) for variants in wanted)])
    measured = [number for number in range(len(table[0])) if any(line[number] for line in table[1:])]
    return [[line[number] for number in measured] for line in table]


def policies(rows: Rows, row: str, names: Mapping[str, str]) -> Table:
    """The control loop's other policies: three forms as large as the flow, and two of the width of their own."""
    forms = ("", "_compile", "_aot_inductor", "_compile_own_size", "_aot_inductor_own_size")
    equal = ("eager", "torch.compile", "AOTInductor")
    table = [["", *equal, "p99 of the fastest", *(f"width {OWN_WIDTH}, {form}" for form in equal[1:])]]
    for title, name in names.items():
        found = [_only(rows[row], name + form) for form in forms]
        fastest = min(found[: len(equal)], key=lambda each: each.median_s)
        seconds = [each.median_s for each in found]
        seconds.insert(len(equal), fastest.p99_s)
        table.append([title, *map(duration, seconds)])
    return table


def tails(rows: Rows, row: str, names: Mapping[str, str]) -> Table:
    """Median and tail of some variants; a cell is empty where there were too few calls."""
    table = [["", "median", "p99", "p99.9"]]
    for title, name in names.items():
        found = _only(rows[row], name)
        seconds = (found.median_s, found.p99_s, found.p999_s)
        table.append([title, *("" if each is None else duration(each) for each in seconds)])
    return table


def steps(rows: Rows, names: Mapping[str, Mapping[str, str]]) -> Table:
    """Gradient steps a second of the suite `training`, and parameters; for each row its variants' titles."""
    table = [["", "steps a second", "parameters"]]
    for row, titles in names.items():
        for title, name in titles.items():
            (record,) = (each for each in rows[row] if each.variant == name)
            rate = STEPS / _only(rows[row], name).median_s
            table.append([title, f"{rate:.1f}", f"{record.parameters / 1e6:.2f} M"])
    return table


def _cell(seconds: Sequence[float | None]) -> str:
    """`1.02 / 0.52 ms`: with one unit where all have it; empty where nothing was measured."""
    texts = ["" if each is None else duration(each) for each in seconds]
    if not any(texts):
        return ""
    *others, last = (text or "-" for text in texts)
    unit = last[last.find(" ") :] if " " in last else ""
    return " / ".join([*(text.removesuffix(unit) if unit else text for text in others), last])


def _fastest(records: Sequence[Record], variants: Sequence[str]) -> float | None:
    medians = [each.quantiles.median_s for each in records if each.variant in variants and each.quantiles]
    return min(medians, default=None)


def _only(records: Sequence[Record], variant: str) -> Quantiles:
    for record in records:
        if record.variant == variant and record.quantiles:
            return record.quantiles
    raise UserError(f"{records[0].row} has no number of {variant}, which a table shows")


_PACKAGES: dict[str, tuple[str, ...]] = {
    "eager": ("eager",),
    "torch.compile": (
        "eager_compile",
        "reference_compile",
        "reference_max_autotune",
        "eager_plu_once_max_autotune",
    ),
    "AOTInductor": ("reference_aot_inductor", "eager_plu_once_aot_inductor"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime_one_sweep"),
    "JAX, jitted": ("jax_jit",),
}
_OURS: dict[str, tuple[str, ...]] = {
    "nfkern": ("nfkern",),
    "frozen": ("nfkern_frozen",),
    "frozen, bf16": ("nfkern_frozen_bf16",),
}
_LIBRARIES: dict[str, tuple[str, ...]] = {
    f"{title}{words}": (f"{name}{form}",)
    for title, name in {
        "zuko": "zuko",
        "nflows": "nflows",
        "zuko, splines": "zuko_nsf",
        "normflows, splines": "normflows",
    }.items()
    for words, form in {"": "", ", compiled": "_compile"}.items()
}
_COMPILED: dict[str, tuple[str, ...]] = {
    "stacked, compiled": ("reference_compile",),
    "naive, compiled": ("eager_compile",),
    "stacked, autotuned": ("reference_max_autotune",),
    "naive, autotuned": ("eager_plu_once_max_autotune",),
    "package, stacked": ("reference_aot_inductor",),
    "package, naive": ("eager_plu_once_aot_inductor",),
}


def _titles(*rows: tuple[str, str, int]) -> dict[str, str]:
    """Titles and names of rows of work, case and batch; the paper's flow is not named."""
    named = {}
    for work, case, batch in rows:
        shape = "" if case == "ogbench" else f", `{case}`"
        named[f"{work.replace('_', ' ').replace('log prob', 'log_prob')}{shape}, batch {batch}"] = (
            f"{work}-{case}-{batch}"
        )
    return named


_ACTING = ("inverse", "log_prob", "denoised_action")
_FLOW = _titles(
    *((work, "ogbench", 1) for work in _ACTING),
    *((work, "ogbench", 50) for work in ("inverse", "denoised_action")),
    *((work, "ogbench", 256) for work in _ACTING),
    *(("inverse", "ogbench", batch) for batch in (4096, 65536)),
    ("training_step", "ogbench", 256),
)
_SHAPES = _titles(
    *((work, "chunked", 1) for work in _ACTING),
    *((work, "chunked", 50) for work in ("inverse", "denoised_action")),
    *((work, "chunked", 256) for work in ("inverse", "log_prob", "training_step")),
    *((work, "ogbench_jax", 1) for work in ("inverse", "denoised_action")),
    *(("inverse", "ogbench_jax", batch) for batch in (50, 256)),
    ("training_step", "ogbench_jax", 256),
    *(("log_prob", "goal_density", batch) for batch in (50, 256, 4096)),
    ("training_step", "goal_density", 256),
)
_OVERVIEW = _titles(
    *((work, "ogbench", 1) for work in ("inverse", "denoised_action")),
    *((work, "ogbench", 256) for work in ("inverse", "training_step")),
)
_QUICK = _titles(
    *((work, "ogbench", batch) for batch in (1, 256) for work in _ACTING), ("training_step", "ogbench", 256)
)
_BESIDE_LIBRARIES = _titles(
    ("inverse", "ogbench", 1), *((work, "ogbench", 256) for work in ("inverse", "log_prob", "training_step"))
)
_CAUSAL = {f"inverse, batch {batch}": f"causal_inverse-causal-{batch}" for batch in (1, 50, 256, 4096)}
_CAUSAL_DENSITY = {
    **{f"log_prob, batch {batch}": f"causal_log_prob-causal-{batch}" for batch in (1, 50, 256)},
    "training step, batch 256": "causal_training_step-causal-256",
}
_LENGTHS = {
    str(tokens): f"causal_inverse-causal{'' if tokens == 16 else f'_{tokens}'}-1" for tokens in (2, 4, 8, 16, 32, 256)
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
    **{title: name for title, (name,) in _OURS.items()},
}
_RUNS = {
    "goal_conditioned_run-synthetic_100k-256-threads_2": {
        "NF-GCBC": "nf_gcbc",
        "flow matching": "flow_matching_gcbc",
        "diffusion": "diffusion_gcbc",
        "Gaussian": "gaussian_gcbc",
    },
    "offline_rl_run-synthetic_100k-256-threads_2": {
        "NF-RLBC": "nf_rlbc",
        "FQL": "fql",
        "IFQL": "ifql",
        "IQL": "iql",
        "ReBRAC": "rebrac",
        "diffusion Q-learning": "diffusion_ql",
    },
}
_README, _DOCUMENT = "README.md", "docs/cpu.md"
_CPU, _CAUSAL_FILE = (f"{name}cpu-2026-11-26.json" for name in ("", "causal-"))
_CONTROL = "control-loop-cpu-2026-11-27.json"
_LOOP = "control_loop-ogbench-1-threads_1"

PUBLISHED = {
    "overview": Published(
        _README,
        _CPU,
        partial(times, titles=_OVERVIEW, columns=_PACKAGES | _OURS, head="the paper's flow", floor=True),
    ),
    "flow": Published(
        _DOCUMENT,
        _CPU,
        partial(times, titles=_FLOW, columns=_PACKAGES | _OURS, threads=(1, 2), floor=True),
    ),
    "compilers": Published(_DOCUMENT, _CPU, partial(times, titles=_OVERVIEW, columns=_COMPILED | _OURS)),
    "libraries": Published(
        _DOCUMENT,
        "libraries-cpu-2026-11-27.json",
        partial(times, titles=_BESIDE_LIBRARIES, columns={"eager": ("eager",)} | _LIBRARIES | _OURS),
    ),
    "shapes": Published(_DOCUMENT, _CPU, partial(times, titles=_SHAPES, columns=_PACKAGES | _OURS, floor=True)),
    "policies": Published(_DOCUMENT, _CONTROL, partial(policies, row=_LOOP, names=_POLICIES)),
    "acting": Published(_DOCUMENT, _CONTROL, partial(tails, row=_LOOP, names=_FLOW_ACTING)),
    "quick": Published(
        _DOCUMENT,
        "quick-cpu-2026-11-27.json",
        partial(times, titles=_QUICK, columns=_PACKAGES | _LIBRARIES | _OURS, threads=(1, 2), floor=True),
    ),
    "causal": Published(
        "docs/causal.md",
        _CAUSAL_FILE,
        partial(times, titles=_CAUSAL, columns=_PACKAGES | _OURS, threads=(1, 2), floor=True),
    ),
    "causal_density": Published(
        "docs/causal.md",
        "causal-density-cpu-2026-11-27.json",
        partial(times, titles=_CAUSAL_DENSITY, columns=_PACKAGES | _OURS, floor=True),
    ),
    # Its eager flows, compiled or exported too, multiply a token more than they have to.
    "causal_density_first": Published(
        "docs/causal.md",
        _CAUSAL_FILE,
        partial(times, titles=_CAUSAL_DENSITY, columns={"JAX, jitted": _PACKAGES["JAX, jitted"]} | _OURS, floor=True),
    ),
    "lengths": Published(
        "docs/causal.md",
        _CAUSAL_FILE,
        partial(
            times,
            titles=_LENGTHS,
            columns=_PACKAGES | _OURS | {"Jacobi": ("nfkern_jacobi",)},
            head="tokens",
            floor=True,
        ),
    ),
    "training": Published(_DOCUMENT, "training-cpu-2026-11-27.json", partial(steps, names=_RUNS)),
}
"""By the name that the marks in a document have."""
