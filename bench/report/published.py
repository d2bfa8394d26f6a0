"""The tables that people read in README.md and docs/: which records stand in which cell.

A variant's time is the median of its record. Of several variants in one column the fastest is shown, with several
thread counts a cell has one time for each. The document says, at the marks around a table, which file it is made of.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import polars as pl

from nfkern.bench.core.units import duration
from nfkern.bench.report.frame import medians
from nfkern.bench.rivals.policies import OWN_WIDTH
from nfkern.bench.works.training_runs import STEPS
from nfkern.errors import UserError

Table = list[list[str]]
"""Head and rows."""


def times(
    records: pl.DataFrame,
    titles: Mapping[str, str],
    columns: Mapping[str, tuple[str, ...]],
    head: str = "",
    threads: tuple[int, ...] = (1,),
    floor: bool = False,
) -> Table:
    """Medians; a column of which nothing was measured is left out.

    Args:
        records: of one file.
        titles: the table's lines, each with the name of its rows up to the threads.
        columns: the variants of each.
        head: of the first column.
        threads: one time for each that is recorded.
        floor: whether the last column has the floor: reading the weights for a single row, the products for others.
    """
    found = {line["row"]: line for line in medians(records).iter_rows(named=True)}
    table = [[head, *columns, *(["floor"] if floor else [])]]
    for title, name in titles.items():
        floors = ("weights_read",) if name.endswith("-1") else ("gemm",)
        wanted = (*columns.values(), *([floors] if floor else []))
        rows = [found[f"{name}-threads_{count}"] for count in threads if f"{name}-threads_{count}" in found]
        table.append([title, *(_cell([_fastest(row, variants) for row in rows]) for variants in wanted)])
    measured = [number for number in range(len(table[0])) if any(line[number] for line in table[1:])]
    return [[line[number] for number in measured] for line in table]


def policies(records: pl.DataFrame, row: str, names: Mapping[str, str]) -> Table:
    """The control loop's other policies: three forms as large as the flow, and two of the width of their own."""
    forms = ("", "_compile", "_aot_inductor", "_compile_own_size", "_aot_inductor_own_size")
    equal = ("eager", "torch.compile", "AOTInductor")
    table = [["", *equal, "p99 of the fastest", *(f"width {OWN_WIDTH}, {form}" for form in equal[1:])]]
    for title, name in names.items():
        found = [_only(records, row, name + form) for form in forms]
        fastest = min(found[: len(equal)], key=lambda each: each["median_s"])
        seconds = [each["median_s"] for each in found]
        seconds.insert(len(equal), fastest["p99_s"])
        table.append([title, *map(duration, seconds)])
    return table


def tails(records: pl.DataFrame, row: str, names: Mapping[str, str]) -> Table:
    """Median and tail of some variants; a cell is empty where there were too few calls."""
    table = [["", "median", "p99", "p99.9"]]
    for title, name in names.items():
        found = _only(records, row, name)
        seconds = (found[column] for column in ("median_s", "p99_s", "p999_s"))
        table.append([title, *("" if each is None else duration(each) for each in seconds)])
    return table


def steps(records: pl.DataFrame, names: Mapping[str, Mapping[str, str]]) -> Table:
    """Gradient steps a second of the suite `training`, and parameters; for each row its variants' titles."""
    table = [["", "steps a second", "parameters"]]
    for row, titles in names.items():
        for title, name in titles.items():
            found = _only(records, row, name)
            table.append([title, f"{STEPS / found['median_s']:.1f}", f"{found['parameters'] / 1e6:.2f} M"])
    return table


def _cell(seconds: Sequence[float | None]) -> str:
    """`1.02 / 0.52 ms`: with one unit where all have it; empty where nothing was measured."""
    texts = ["" if each is None else duration(each) for each in seconds]
    if not any(texts):
        return ""
    *others, last = (text or "-" for text in texts)
    unit = last[last.find(" ") :] if " " in last else ""
    return " / ".join([*(text.removesuffix(unit) if unit else text for text in others), last])


def _fastest(row: Mapping[str, float | None], variants: Sequence[str]) -> float | None:
    return min((seconds for name in variants if (seconds := row.get(name)) is not None), default=None)


def _only(records: pl.DataFrame, row: str, variant: str) -> dict[str, float]:
    found = records.filter(pl.col("row") == row, pl.col("variant") == variant, pl.col("median_s").is_not_null())
    if found.is_empty():
        raise UserError(f"{row} has no number of {variant}, which a table shows")
    return found.row(0, named=True)


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
_LOOP = "control_loop-ogbench-1-threads_1"
_CAUSAL_DENSITIES = partial(times, titles=_CAUSAL_DENSITY, floor=True)

PUBLISHED: dict[str, Callable[[pl.DataFrame], Table]] = {
    "overview": partial(times, titles=_OVERVIEW, columns=_PACKAGES | _OURS, head="the paper's flow", floor=True),
    "flow": partial(times, titles=_FLOW, columns=_PACKAGES | _OURS, threads=(1, 2), floor=True),
    "compilers": partial(times, titles=_OVERVIEW, columns=_COMPILED | _OURS),
    "libraries": partial(times, titles=_BESIDE_LIBRARIES, columns={"eager": ("eager",)} | _LIBRARIES | _OURS),
    "shapes": partial(times, titles=_SHAPES, columns=_PACKAGES | _OURS, floor=True),
    "policies": partial(policies, row=_LOOP, names=_POLICIES),
    "acting": partial(tails, row=_LOOP, names=_FLOW_ACTING),
    "quick": partial(times, titles=_QUICK, columns=_PACKAGES | _LIBRARIES | _OURS, threads=(1, 2), floor=True),
    "causal": partial(times, titles=_CAUSAL, columns=_PACKAGES | _OURS, threads=(1, 2), floor=True),
    "causal_density": partial(_CAUSAL_DENSITIES, columns=_PACKAGES | _OURS),
    # Its eager flows, compiled or exported too, multiply a token more than they have to.
    "causal_density_first": partial(_CAUSAL_DENSITIES, columns={"JAX, jitted": _PACKAGES["JAX, jitted"]} | _OURS),
    "lengths": partial(
        times, titles=_LENGTHS, columns=_PACKAGES | _OURS | {"Jacobi": ("nfkern_jacobi",)}, head="tokens", floor=True
    ),
    "training": partial(steps, names=_RUNS),
}
"""By the name that the marks in a document have: a table of the records of the file that they name."""
