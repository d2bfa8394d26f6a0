"""Kinds of results and the sections that they become. A new kind of study is a new line in `KINDS`."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nfkern.errors import UserError
from nfkern.page import page

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of the page: where links find it, its heading as text, and HTML."""

    anchor: str
    title: str
    html: str


@dataclass(frozen=True)
class Kind:
    """A kind of results file.

    Args:
        name: what the files are, in words.
        command: what writes one.
        fields: the first JSON object of a file has them all, and no other kind's does.
        module: has `read(path)`, which may raise `UserError`, and `sections(files)`: the `Section`s of what was read,
            by file name.
        requires: modules that the sections need beyond those that measuring needs.
    """

    name: str
    command: str
    fields: frozenset[str]
    module: str
    requires: tuple[str, ...] = ()


KINDS: tuple[Kind, ...] = (
    Kind(
        "benchmark records",
        "nfkern bench run",
        frozenset({"work", "case", "batch", "variant"}),
        "nfkern.bench.report.page.timings",
    ),
    Kind(
        "results of densities",
        "nfkern bench quality",
        frozenset({"settings", "latencies", "trials", "fits"}),
        "nfkern.bench.report.page.densities",
        requires=("matplotlib",),
    ),
    Kind(
        "results in the simulator",
        "nfkern bench success",
        frozenset({"settings", "latencies", "trainings", "evaluations"}),
        "nfkern.bench.report.page.simulator",
        requires=("matplotlib",),
    ),
)


def to_html(paths: Sequence[Path], kinds: Sequence[Kind] = KINDS) -> str:
    """The page of all files, a kind after the other.

    Raises:
        UserError: a file cannot be read, is of no kind or holds nothing, two are the same, or a module is missing.
    """
    names = _names(paths)
    files: dict[Kind, dict[str, Any]] = {}
    for path in paths:
        kind = kind_of(path, kinds)
        if missing := [module for module in kind.requires if find_spec(module) is None]:
            raise UserError(
                f"{path}: a page of {kind.name} needs the package {missing[0]}: `pip install 'nfkern[log]'`"
            )
        files.setdefault(kind, {})[names[path]] = importlib.import_module(kind.module).read(path)
    sections: list[Section] = []
    for kind in kinds:
        if kind in files:
            sections += importlib.import_module(kind.module).sections(files[kind])
    links = "".join(f'<li><a href="#{each.anchor}">{escape(each.title)}</a></li>' for each in sections)
    bodies = [f'<h2 id="{each.anchor}">{escape(each.title)}</h2>\n{each.html}' for each in sections]
    body = "\n".join([f"<nav><ul>{links}</ul></nav>", *bodies])
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return page("nfkern benchmarks", body, f"made of {', '.join(names.values())}", style, script)


def kind_of(path: Path, kinds: Sequence[Kind] = KINDS) -> Kind:
    """By what the file holds.

    Raises:
        UserError: it cannot be read, is empty, or is of no kind.
    """
    makers = " or ".join(f"`{kind.command} --out {path}`" for kind in kinds)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make one with {makers}") from None
    if not text.strip():
        raise UserError(f"{path} holds no records: make some with {makers}, and --overwrite")
    found = _first_object(text)
    for kind in kinds:
        if kind.fields <= found.keys():
            return kind
    known = " nor ".join(f"{kind.name} (`{kind.command}`)" for kind in kinds)
    raise UserError(f"{path}: is neither {known}")


def _first_object(text: str) -> Mapping[str, Any]:
    """Of a file of one JSON object, or of one a line."""
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
