"""Where the records were measured, and what their variants are."""

from collections.abc import Sequence
from html import escape

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.records import Record
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.labels import described
from nfkern.bench.report.page.rows import Timed
from nfkern.bench.report.page.tables import line, sortable, text

_COLUMNS = ("no.", "device", "cores", "commit", "versions", "backends", "clock", "measured", "rows")

_GATE = """Before a variant is timed its results are held to a float64 definition of the work: an independent flow's, or
the dataset's own rows. Flows of other packages are held to themselves in float64, densities by the determinant of their
Jacobian and scores by differences; policies to their own arithmetic in float64; a floor has to give finite numbers; a
training run has to leave its steps, a finite loss and a checkpoint."""


def numbered(rows: Sequence[Timed]) -> dict[str, int]:
    """A number for each distinct environment, from 1 on, by its text."""
    return {name: number for number, name in enumerate(dict.fromkeys(str(row.first.environment) for row in rows), 1)}


def machines(rows: Sequence[Timed]) -> str:
    """A line for each environment."""
    lines = []
    for name, number in numbered(rows).items():
        here = [row for row in rows if str(row.first.environment) == name]
        records = [record for row in here for record in row.records]
        lines.append(_line(number, records[0].environment, records, len(here)))
    return sortable(_COLUMNS, lines)


def variants(records: Sequence[Record]) -> str:
    """What each name stands for."""
    names = list(dict.fromkeys(record.variant for record in records))
    known = [(name, described(VARIANTS[name])) for name in names if name in VARIANTS]
    listed = "".join(f"<li><b>{escape(name)}</b>: {escape(summary)}</li>" for name, summary in known)
    return f"<p>{_GATE}</p><ul>{listed}</ul>"


def _line(number: int, environment: Environment, records: Sequence[Record], rows: int) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    dates = sorted(record.date[:10] for record in records)
    clocks = list(dict.fromkeys(record.clock for record in records))
    measured = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    device = f"{environment.device_name} ({environment.device})"
    commit, dirty, _ = (environment.commit or "unknown").partition("-dirty")
    commit = commit[:12] + (" with changes" if dirty else "")
    cells = [
        *(
            text(number),
            text(device),
            text(environment.cores),
            text(commit, "words"),
        ),
        *(text(versions, "long"), text(_backends(environment), "long"), text("; ".join(clocks))),
        *(text(measured), text(rows)),
    ]
    return line(cells)


def _backends(environment: Environment) -> str:
    """What implements the ops: how many for the most common backend, by name for others."""
    found: dict[str, list[str]] = {}
    for op, backend in sorted(environment.backends.items()):
        found.setdefault(backend, []).append(op)
    common = max(found, key=lambda backend: len(found[backend]), default="none")
    ops = len(found.pop(common, []))
    rest = [f"{backend}: {', '.join(names)}" for backend, names in found.items()]
    return "; ".join([f"{common} ({ops} {'op' if ops == 1 else 'ops'})", *rest])
