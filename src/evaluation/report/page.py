"""One HTML file that holds everything: tables as HTML, figures inside it as data."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

import pandas as pd

from umamba.drawing.figure import FIGURE_DPI

_CSS_PIXELS_PER_INCH = 96
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1250px; margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.7em; } h2 { margin-top: 2.2em; border-bottom: 2px solid #4477aa; } h3 { margin-bottom: .3em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12.5px; margin: .6em 0; }
th { text-align: left; vertical-align: bottom; background: #eef2f7; } td { white-space: nowrap; }
th, td { padding: .3em .55em; border-bottom: 1px solid #ddd; }
td:not(:first-child) { font-variant-numeric: tabular-nums; }
tbody tr:hover { background: #f7f9fc; }
img { max-width: 100%; height: auto; }
.note { color: #666; font-size: 13px; max-width: 70em; }
nav a { margin-right: 1.2em; }
@media print { nav { display: none; } .scroll { overflow: visible; } h2 { page-break-before: always; } }
"""


def page(title: str, intro: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page.

    Args:
        title: Plain text.
        intro: HTML below the title.
        sections: Heading (plain text) and HTML of each.
    """
    sections = list(sections)
    links = "".join(f'<a href="#s{i}">{escape(heading)}</a>' for i, (heading, _) in enumerate(sections))
    body = "".join(f'<h2 id="s{i}">{escape(heading)}</h2>\n{html}\n' for i, (heading, html) in enumerate(sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{intro}\n<nav>{links}</nav>\n{body}</body></html>\n"
    )


def table(text: pd.DataFrame, heading: str = "", note: str = "") -> str:
    """A table of text."""
    head = "".join(f"<th>{escape(str(column))}</th>" for column in text.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>\n"
        for row in text.itertuples(index=False)
    )
    grid = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'
    return _heading(heading) + grid + paragraph(note)


def picture(path: Path, heading: str, note: str = "") -> str:
    """A PNG file, stored in the page itself."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20]) * _CSS_PIXELS_PER_INCH // FIGURE_DPI  # its width stands there in a PNG
    source = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    return f'{_heading(heading)}<img alt="{escape(heading)}" width="{width}" src="{source}">{paragraph(note)}'


def paragraph(text: str) -> str:
    """A note, or nothing for an empty text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>" if text else ""
