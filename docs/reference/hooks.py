"""Hook of MkDocs: the help of every command in place of a mark, and docstrings without Sphinx's marks of formulas."""

import contextlib
import io
import os
import re
import textwrap
from typing import Any

MARK = "<!-- help of every command -->"
WIDTH = 80  # characters of a block of code on a page


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with the commands' help in place of the mark."""
    return markdown.replace(MARK, _all_help()) if MARK in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Return a page without the marks that only Sphinx knows."""
    return re.sub(r"(:math:|\.\. math::)\s*", "", html)


def _all_help() -> str:
    from nfkern.cli.commands import COMMANDS

    os.environ["COLUMNS"] = str(WIDTH)
    return "\n\n".join(f"## nfkern {name}\n\n```text\n{_help(name.split())}\n```" for name in COMMANDS)


def _help(words: list[str]) -> str:
    from nfkern.cli.commands import main

    with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue()).rstrip()
    # Descriptions come as one line a paragraph.
    return "\n".join(textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in text.splitlines())
