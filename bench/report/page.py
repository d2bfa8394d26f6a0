"""One HTML page of results that needs no network and no script: of benchmark records and of studies, in any order."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from nfkern.bench.core import records as storage
from nfkern.bench.report.timings import timings
from nfkern.errors import UserError
from nfkern.page import page

_HERE = Path(__file__).parent
_TIMES = (
    ("overview", "Overview"),
    ("losses", "Where nfkern loses"),
    ("growth", "How time and memory grow"),
    ("machines", "Machines"),
    ("variants", "Variants"),
    ("rows", "Every row"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of results file.

    Args:
        name: what the files are, in words.
        command: writes one.
        fields: the first JSON object of a file has them all, and no other kind's does.
        study: the package of a study, whose `report` has its `REPORT`; None for benchmark records.
    """

    name: str
    command: str
    fields: frozenset[str]
    study: str | None = None


KINDS: tuple[Kind, ...] = (
    Kind("benchmark records", "nfkern bench run", frozenset({"work", "case", "batch", "variant"})),
    Kind(
        "results of densities",
        "nfkern bench quality",
        frozenset({"settings", "latencies", "trials", "fits"}),
        "nfkern.bench.studies.quality",
    ),
    Kind(
        "results in the simulator",
        "nfkern bench success",
        frozenset({"settings", "latencies", "trainings", "evaluations"}),
        "nfkern.bench.studies.success",
    ),
)


def to_html(paths: Sequence[Path]) -> str:
    """The page of all files: records first, then study after study.

    Raises:
        UserError: a file cannot be read, is of no kind or holds nothing, two are the same, or a module is missing.
    """
    names = _names(paths)
    kinds = {path: kind_of(path) for path in paths}
    records = {names[path]: storage.read(path) for path, kind in kinds.items() if kind.study is None}
    studies = []
    for kind in KINDS:
        found = [path for path in paths if kinds[path] is kind]
        for number, path in enumerate(found, 1):
            if kind.study:
                anchor = f"{kind.study.rpartition('.')[2]}-{number}"
                studies.append(_study(path, kind.name, kind.study, names[path]) | {"anchor": anchor})
                studies[-1]["title"] += f", {names[path]}" if len(found) > 1 else ""
    times = timings(records) if records else None
    banners = [f"{study['title']}: {warning}" for study in studies for warning in study["warnings"]]
    if times and times["trial"]:
        banners.append("All cases are tiny ones, which only try the suite out. Its numbers mean nothing.")
    contents = [*(_TIMES if times else ()), *((study["anchor"], study["title"]) for study in studies)]
    # Lines of a template's own are no part of the page.
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_text("page.html"))
    body = template.render(times=times, studies=studies, banners=banners, contents=contents)
    title = "nfkern benchmarks"
    return page(title, body, f"made of {', '.join(names.values())}", _text("page.css"), _text("page.js"))


def kind_of(path: Path) -> Kind:
    """Return the kind of a file by its content.

    Raises:
        UserError: it cannot be read, is empty, or is of no kind.
    """
    makers = " or ".join(f"`{kind.command} --out {path}`" for kind in KINDS)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make one with {makers}") from None
    if not text.strip():
        raise UserError(f"{path} holds no records: make some with {makers}, and --overwrite")
    found = _first_object(text)
    for kind in KINDS:
        if kind.fields <= found.keys():
            return kind
    known = " nor ".join(f"{kind.name} (`{kind.command}`)" for kind in KINDS)
    raise UserError(f"{path}: is neither {known}")


def _study(path: Path, kind: str, study: str, file: str) -> dict[str, Any]:
    """Return the part of the template's data that one study's results make."""
    if find_spec("matplotlib") is None:
        raise UserError(f"{path}: a page of {kind} needs the package matplotlib: `pip install 'nfkern[log]'`")
    report = importlib.import_module(f"{study}.report").REPORT
    results = report.read(path)
    return {
        "title": report.title,
        "origin": f"{file}: {results.counted()}, started {results.started}.",
        "body": report.to_html(results),
        "warnings": report.warnings(results),
    }


def _first_object(text: str) -> Mapping[str, Any]:
    """Return the first object of a file of one JSON object, or of one a line; empty if it has none."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Files by name, with as many folders before it as tell them apart."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"files: expected different ones, got {', '.join(map(str, paths))}")

    def name(path: Path) -> str:
        for count in range(1, len(path.resolve().parts)):
            if sum(other.resolve().parts[-count:] == path.resolve().parts[-count:] for other in paths) == 1:
                return "/".join(path.resolve().parts[-count:])
        return str(path)

    return {path: name(path) for path in paths}


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
