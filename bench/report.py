"""Records as one HTML page that needs nothing else: no script, no font, no address."""

from collections.abc import Sequence
from html import escape

from nfkern.bench.declarations import STANDINGS, Variant
from nfkern.bench.records import Record, by_row
from nfkern.bench.registry import VARIANTS
from nfkern.page import page

_COLUMNS = ("variant", "median", "p10", "p90", "p99", "p99.9", "ratio", "first call", "calls")


def to_html(records: Sequence[Record]) -> str:
    """The page; rows in the file's order, ratios to each row's first variant that has a number."""
    dates = sorted(record.date for record in records)
    sections = "\n".join(_section(name, row) for name, row in by_row(records).items())
    body = f"""{_environments(records)}
<p>Times are seconds of wall clock per call, measured in turns. Ratios say how many times faster than the row's first
variant. No time is shown without a green correctness gate; a floor is a part of the job, done right or wrong.</p>
{_variants(records)}
{sections}"""
    return page("nfkern benchmarks", body, f"{len(records)} records, {dates[0]} to {dates[-1]}")


def duration(seconds: float) -> str:
    """Three digits with a unit: `45.1 us`, `1.20 ms`, `2.50 s`."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            value = seconds * scale
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    raise AssertionError


def described(variant: Variant) -> str:
    """Its summary, and what its times stand for where that is not the whole job."""
    note = STANDINGS[variant.standing]
    return f"{variant.summary} ({note})" if note else variant.summary


def standing_note(name: str) -> str:
    """What to say behind a variant's name: nothing of a peer, nor of a variant that is no longer known."""
    return STANDINGS[VARIANTS[name].standing] if name in VARIANTS else ""


def _environments(records: Sequence[Record]) -> str:
    lines = []
    for environment in {str(record.environment): record.environment for record in records}.values():
        versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
        backends = ", ".join(sorted(set(environment.backends.values()))) or "none"
        commit = environment.commit or "unknown"
        text = (
            f"{environment.device_name}, {environment.cores} cores; {versions}; commit {commit}; backends: {backends}"
        )
        lines.append(f"<li>{escape(text)}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _variants(records: Sequence[Record]) -> str:
    names = list(dict.fromkeys(record.variant for record in records))
    known = [(name, described(VARIANTS[name])) for name in names if name in VARIANTS]
    return "<ul>" + "".join(f"<li><b>{escape(name)}</b>: {escape(summary)}</li>" for name, summary in known) + "</ul>"


def _section(name: str, records: Sequence[Record]) -> str:
    first = records[0]
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    size = f", {first.parameters:,} parameters" if first.parameters else ""
    title = f"{first.work}, {first.case}, batch {first.batch}, {threads}"
    times = [record.quantiles.median_s for record in records if record.quantiles]
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    # A floor does not do the job, and another function is not the one asked for.
    peers = [record.quantiles.median_s for record in records if record.quantiles and not standing_note(record.variant)]
    lines = "\n".join(_line(record, times[0] if times else 0.0, min(peers, default=0.0)) for record in records)
    return f"""<h2 id="{escape(name)}">{escape(title)}</h2>
<p>{escape(first.mode)}, {escape(first.precision)}{size}; clock {escape(first.clock)}</p>
<table><tr>{head}</tr>
{lines}
</table>
{_bars(records)}"""


def _line(record: Record, first_s: float, best_s: float) -> str:
    note = standing_note(record.variant)
    name = f"<td>{escape(record.variant)}{f' <i>({escape(note)})</i>' if note else ''}</td>"
    if record.quantiles is None:
        kind, reason = ("refused", record.error) if record.error else ("skipped", record.skipped)
        return f'<tr class="{kind}">{name}<td class="note" colspan="8">{kind}: {escape(reason or "")}</td></tr>'
    q = record.quantiles
    cells = [duration(value) for value in (q.median_s, q.p10_s, q.p90_s, q.p99_s)]
    cells.append("" if q.p999_s is None else duration(q.p999_s))
    cells += [f"{first_s / q.median_s:.2f}", duration(record.first_call_s or 0), str(q.repeats)]
    best = ' class="best"' if q.median_s == best_s else ""
    return f"<tr{best}>{name}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _bars(records: Sequence[Record]) -> str:
    """Medians as bars from zero, with the 10 to 90 % band as a line."""
    measured = [(record.variant, record.quantiles) for record in records if record.quantiles]
    if len(measured) < 2:
        return ""
    width, left, step = 560, 170, 26
    scale = (width - left - 90) / max(q.p90_s for _, q in measured)
    parts = []
    for index, (name, q) in enumerate(measured):
        y = index * step + 4
        end, low, high = (left + value * scale for value in (q.median_s, q.p10_s, q.p90_s))
        kind = "bar ours" if name == "nfkern" else "bar"
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{kind}" x="{left}" y="{y}" width="{end - left:.1f}" height="18"/>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 9}" y2="{y + 9}" stroke="#1c2330"/>'
            f'<text x="{max(end, high) + 6:.1f}" y="{y + 13}">{escape(duration(q.median_s))}</text>'
        )
    height = len(measured) * step + 4
    label = escape("medians: " + ", ".join(f"{name} {duration(q.median_s)}" for name, q in measured))
    return f'<svg width="{width}" height="{height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
