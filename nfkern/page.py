"""The HTML page that reports are written on: one file that needs no network, script or font."""

from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse; width: 100%; margin: .75rem 0 }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #dfe3ea }
td { font-variant-numeric: tabular-nums }
th:first-child, td:first-child, td.note { text-align: left }
.best { font-weight: 600 } .refused { color: #b3261e } .skipped { color: #66708a }
img { max-width: 100% } figure { margin: 1rem 0 } figcaption, footer { color: #66708a; font-size: 13px }
svg text { font-size: 12px; fill: #1c2330 } .bar { fill: #9db4d3 } .ours { fill: #2f6f4f }
footer { margin-top: 3rem }
"""


def page(title: str, body: str, footer: str = "") -> str:
    """A whole document; `body` is HTML, `title` and `footer` are text."""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>
<style>{_STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
{body}
<footer>{escape(footer)}</footer>
</body>
</html>
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text; the first column is aligned left, the others right."""
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"
