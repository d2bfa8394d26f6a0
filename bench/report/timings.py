"""Benchmark records as the data of the page, which its template writes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.records import Record
from nfkern.bench.core.units import duration, size
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report import charts
from nfkern.bench.report.frame import frame
from nfkern.bench.report.labels import described, standing_note
from nfkern.bench.report.reproduction import reproduction
from nfkern.bench.report.rows import EVEN, UNTUNED, Timed, timed_rows, verdict
from nfkern.bench.report.scaling import FEWEST, Family, families, fit
from nfkern.bench.works.training_runs import STEPS, TRAINING_RUNS

_AXES = {"features": "features D", "hidden": "hidden width", "width": "hidden width", "tokens": "tokens T"}
_NOT_SHOWN = ("work", "device_name", "cores", "shape", "norm_eps")
# A quantity with curves: its words in titles, its unit, and a value in words.
_QUANTITIES = {"median_s": ("", "s", duration), "peak_bytes": (", memory", "B", size)}


def timings(files: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return the template's data of all files."""
    rows = timed_rows(files)
    records = [record for row in rows for record in row.records]
    machines: dict[str, list[Timed]] = {}
    for row in rows:
        machines.setdefault(str(row.first.environment), []).append(row)
    names = dict.fromkeys(record.variant for record in records)
    again = {row.anchor: reproduction(row.records) for row in rows}
    runs = [work.name for work in TRAINING_RUNS]
    return {
        "verdict": verdict(rows),
        "leads": charts.leads(rows) if any(row.word != "alone" for row in rows) else "",
        "trial": all("tiny" in row.first.case for row in rows),
        "count": len(records),
        "days": _days(records),
        "untuned": sum(bool(row.peers) and {each.variant for each in row.peers} <= UNTUNED for row in rows),
        "incomplete": sum(bool(found and found.further) for found in again.values()),
        "even": f"{EVEN:.0%}",
        "fewest": FEWEST,
        "families": [
            _family(family, quantity, file if len(files) > 1 else "")
            for file, each in files.items()
            for quantity in _QUANTITIES
            for family in families(frame({file: each}), quantity)
        ],
        "machines": [_machine(each) for each in machines.values()],
        "variants": [(name, described(VARIANTS[name])) for name in names if name in VARIANTS],
        "rows": rows,
        "again": again,
        "machine_of": {row.anchor: number for number, each in enumerate(machines.values(), 1) for row in each},
        "steps": {row.anchor: STEPS if row.first.work in runs else 0 for row in rows},
    }


def words(row: Timed) -> str:
    """Return the words by which a reader finds a row."""
    found = [row.first.row.replace("-", " "), f"batch_{row.first.batch}", row.word]
    return " ".join([*found, *(each.variant for each in row.records), row.file]).lower()


def apart(record: Record, row: Timed) -> str:
    """Return what sets a variant apart from its row: precision, size, and what its times stand for."""
    found = [record.precision] if record.precision != "fp32" else []
    found += [f"{record.parameters:,} parameters"] if record.parameters != row.first.parameters else []
    return ", ".join(filter(None, [*found, standing_note(record.variant)]))


def _family(family: Family, quantity: str, file: str) -> dict[str, Any]:
    title, unit, said = _QUANTITIES[quantity]
    axis = _AXES.get(family.axis, family.axis.replace("_", " "))
    shared = {name: value for name, value in family.shared.items() if name not in _NOT_SHOWN}
    if family.axis in ("batch", "threads"):
        # The same flow throughout: by the case's name, of which several may stand for one shape.
        case = Counter(family.records["case"]).most_common(1)[0][0]
        shared = {"case": case} | {name: shared[name] for name in ("batch", "threads") if name in shared}
    notes = [f"{name.replace('_', ' ')} {value}" for name, value in shared.items()]
    commits = family.records["commit"].n_unique()
    notes += [*([f"points of {commits} commits"] if commits > 1 else []), *([file] if file else [])]
    return {
        "title": f"{family.shared['work']}{title} against {axis}",
        "shared": ", ".join(notes),
        "chart": charts.growth(family.curves, axis, unit),
        "curves": [(name, fit(curve), curve, said(curve[max(curve)])) for name, curve in family.curves.items()],
    }


def _machine(rows: Sequence[Timed]) -> dict[str, Any]:
    records = [record for row in rows for record in row.records]
    environment = records[0].environment
    commit, dirty, _ = (environment.commit or "unknown").partition("-dirty")
    return {
        "environment": environment,
        "commit": commit[:12] + (" with changes" if dirty else ""),
        "versions": ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        "backends": _backends(environment),
        "clocks": "; ".join(dict.fromkeys(record.clock for record in records)),
        "days": _days(records),
        "rows": len(rows),
    }


def _backends(environment: Environment) -> str:
    """Return how many ops the most common backend has, and which ops others have."""
    (common, ops), *rest = Counter(environment.backends.values()).most_common() or [("none", 0)]
    others = [
        f"{name}: {', '.join(op for op, each in environment.backends.items() if each == name)}" for name, _ in rest
    ]
    return "; ".join([f"{common} ({ops} {'op' if ops == 1 else 'ops'})", *others])


def _days(records: Sequence[Record]) -> str:
    first, last = min(each.date[:10] for each in records), max(each.date[:10] for each in records)
    return first if first == last else f"{first} to {last}"
