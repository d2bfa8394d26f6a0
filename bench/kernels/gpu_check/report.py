"""What a GPU check found, as records and as a markdown page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nfkern.bench.core import records as storage
from nfkern.bench.core.environment import Environment
from nfkern.bench.core.records import Record
from nfkern.bench.kernels.gpu_check.timing import Measured


@dataclass
class Findings:
    """Everything so far; steps append to it.

    Attributes:
        environment: where.
        checked: one line for each group of checks that was carried out.
        failures: what is wrong.
        notes: what was left out, and why.
        limits: what the device can do at best.
        measured: timings.
    """

    environment: Environment
    checked: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)


def write(findings: Findings, folders: Sequence[Path], date: str) -> list[Path]:
    """Records, if there are any, and page into every folder, named after device and date; the files written."""
    name = re.sub(r"[^a-z0-9]+", "-", findings.environment.device_name.lower()).strip("-")
    written = []
    for folder in folders:
        records, page = folder / f"{name}-{date}.json", folder / f"{name}-{date}.md"
        if findings.measured:
            storage.write(records, [each.record for each in findings.measured])
            written.append(records)
        page.write_text(markdown(findings, date), encoding="utf-8")
        written.append(page)
    return written


def markdown(findings: Findings, date: str) -> str:
    """The page."""
    e = findings.environment
    versions = ", ".join(f"{name} {version}" for name, version in e.versions.items())
    parts = [
        f"# {e.device_name}, {date}",
        f"{versions}; commit {e.commit or 'unknown'}; made by `make gpu-check`.",
        *_section("Failures", findings.failures),
        *_section("Checked against float64", findings.checked),
        *_section("Left out", findings.notes),
        *_section("Limits of the device", findings.limits),
    ]
    if findings.measured:
        parts += ["## Times", _LEGEND, "\n".join(table(findings.measured))]
    return "\n\n".join(parts) + "\n"


_LEGEND = """Microseconds a call. *device*: of a `_graph` row, replayed calls without host, median; else from first to
last kernel of a plain call. *wall*: as the caller sees it, results ready; a `_graph` row copies inputs in and replays.
*kernels*: launches a plain call. *times eager*: eager's wall median over this row's; eager has a `_graph` row, too."""


def table(measured: Sequence[Measured]) -> list[str]:
    """Lines of a markdown table."""
    lines = [
        "| work | batch | variant | precision | device | wall p50 | wall p99 | kernels | times eager |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    eager = {r.row: r.quantiles.median_s for m in measured for r in (m.record,) if r.variant == "eager" and r.quantiles}
    for each in measured:
        record = each.record
        head = f"| {record.case} {record.work} | {record.batch} | {record.variant} | {record.precision} |"
        if record.quantiles is None:
            kind, reason = ("refused", record.error) if record.error else ("skipped", record.skipped)
            lines.append(f"{head} {kind}: {(reason or '').splitlines()[0][:120]} | | | | |")
            continue
        q, launches = record.quantiles, "" if each.launches is None else str(each.launches)
        ratio = f"{eager[record.row] / q.median_s:.1f}" if record.row in eager else ""
        device = _us(q.device_median_s) if q.device_median_s is not None else ""
        lines.append(f"{head} {device} | {_us(q.median_s)} | {_us(q.p99_s)} | {launches} | {ratio} |")
    return lines


def summary(record: Record) -> str:
    """One line as a measurement ends."""
    if record.quantiles is None:
        return f"{record.key}: {record.error or record.skipped}"
    device = record.quantiles.device_median_s
    on_device = "" if device is None else f"device {_us(device)} us, "
    return f"{record.key}: {on_device}wall {_us(record.quantiles.median_s)} us"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {line}" for line in lines)] if lines else []


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"
