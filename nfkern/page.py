"""HTML page of reports: one file that needs no network and no font, and fits a phone."""

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d677c; --line: #dfe3ea; --paper: #fff; --bad: #b3261e;
  --bar: #9db4d3; --ours: #2f6f4f }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ed; --soft: #9aa4b8; --line: #353c4a; --paper: #14181f;
  --bad: #ff8a80; --bar: #52698a; --ours: #5fb98d } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem }
.scroll { overflow-x: auto; margin: .75rem 0 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line) }
td { font-variant-numeric: tabular-nums }
th:first-child, td:first-child, td.note { text-align: left }
.best { font-weight: 600 } .refused { color: var(--bad) } .skipped { color: var(--soft) }
img { max-width: 100%; background: #fff } figure { margin: 1rem 0 }
figcaption, footer { color: var(--soft); font-size: 13px }
svg text { font-size: 12px; fill: var(--ink) } .bar { fill: var(--bar) } .ours { fill: var(--ours) }
footer { margin-top: 3rem }
"""

# Forbid fetching, whatever the body says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, body: str, footer: str = "", style: str = "", script: str = "") -> str:
    """Return a document: `body` is HTML, `title` and `footer` are text, `style` and `script` extend the common ones."""
    run = f"<script>\n{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{escape(title)}</title>
<style>{_STYLE}{style}</style></head>
<body>
<h1>{escape(title)}</h1>
{body}
<footer>{escape(footer)}</footer>
{run}</body>
</html>
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text that scrolls if it is too wide; the first column is aligned left, the others right.

    A page's script may make it sortable.
    """
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="sortable"><thead><tr>{heads}</tr></thead><tbody>\n{lines}\n'
        "</tbody></table></div>"
    )
