"""One HTML file that holds everything: tables as HTML, figures inside it as data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from umamba.drawing.figure import FIGURE_DPI
from umamba.evaluation.table_text import cells

_CSS_PIXELS_PER_INCH = 96
_LONG = 28  # characters of a cell that may wrap, so that a path or a name does not push the numbers off the page
_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --quiet: #59636e; --line: #d1d9e0; --head: #f1f4f8; --mark: #2f6db5;
  --page: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #9198a1; --line: #3d444d; --head: #1c2128;
  --mark: #6cb0f5; --page: #0d1117; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 1250px;
  margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.7em; } h2 { margin-top: 2.2em; border-bottom: 2px solid var(--mark); } h3 { margin-bottom: .3em; }
a { color: var(--mark); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12.5px; margin: .6em 0; }
th { text-align: left; vertical-align: bottom; background: var(--head); } td { white-space: nowrap; }
th, td { padding: .3em .55em; border-bottom: 1px solid var(--line); }
td:not(:first-child) { font-variant-numeric: tabular-nums; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16em; }
tbody tr:hover { background: var(--head); }
th[aria-sort] { cursor: pointer; } th[aria-sort=ascending]::after { content: " \\25B2"; }
th[aria-sort=descending]::after { content: " \\25BC"; }
input.filter { font: inherit; font-size: 12.5px; padding: .2em .5em; color: inherit; background: transparent;
  border: 1px solid var(--line); border-radius: 4px; }
img, svg { max-width: 100%; height: auto; } img { background: #fff; }
ul.verdict { font-size: 16px; max-width: 62em; border-left: 4px solid var(--mark); padding: .2em 0 .2em 1.6em; }
.note { color: var(--quiet); font-size: 13px; max-width: 70em; }
nav a { margin-right: 1.2em; }
@media screen and (max-width: 640px) { body { padding: 0 .8em; } .scroll > svg { max-width: none; min-width: 560px; }
  .scroll > img { max-width: none; }
  ul.verdict { padding-left: 1.1em; } nav a { display: inline-block; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); white-space: normal;
  min-width: 7.5em; max-width: 9.5em; } th:first-child { background: var(--head); } }
@page { margin: 14mm; }
@media print { :root { color-scheme: light; --text: #000; --quiet: #444; --page: #fff; --head: #eee; --line: #bbb; }
  body { max-width: none; margin: 0; padding: 0; font-size: 11pt; print-color-adjust: exact; }
  nav, input.filter { display: none; } tr[hidden] { display: table-row; } .scroll { overflow: visible; }
  th[aria-sort]::after { content: none !important; }
  h2 { break-before: page; } h2:first-of-type { break-before: auto; } h2, h3 { break-after: avoid; }
  svg, img, table, tr, li { break-inside: avoid; } svg, img { max-height: 230mm; }
  img { width: auto; } .note { break-before: avoid; }
  table { font-size: 6.75pt; } th, td { padding: .25em .45em; } td.long { min-width: 12em; } }
"""
# The only script that the page may run (its hash is in the page's policy): it sorts and filters tables.
_SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], rows = () => [...body.rows];
  const number = text => parseFloat((text.replace('<', '').match(/^\\s*[-+]?[0-9.]+/) || ['none'])[0]);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.setAttribute('aria-sort', 'none'); head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      for (const other of table.tHead.rows[0].cells) other.setAttribute('aria-sort', 'none');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const key = row => row.cells[column].textContent;
      rows().map(row => [key(row), number(key(row)), row]).sort((a, b) => {
        const order = isNaN(a[1]) && isNaN(b[1]) ? a[0].localeCompare(b[0])
          : isNaN(a[1]) ? 2 : isNaN(b[1]) ? -2 : a[1] - b[1];
        return Math.abs(order) === 2 && isNaN(a[1]) !== isNaN(b[1]) ? order : up ? order : -order;
      }).forEach(entry => body.append(entry[2]));
    };
    head.addEventListener('click', sort);
    head.addEventListener('keydown', event => { if (event.key === 'Enter') sort(); });
  });
  if (rows().length > 7) {
    const box = document.createElement('input');
    box.type = 'search'; box.placeholder = 'filter rows'; box.className = 'filter';
    box.addEventListener('input', () => rows().forEach(row => {
      row.hidden = !row.textContent.toLowerCase().includes(box.value.toLowerCase());
    }));
    table.parentElement.before(box);
  }
}
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
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{intro}\n<nav>{links}</nav>\n{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def table(text: pd.DataFrame, heading: str = "", note: str = "") -> str:
    """A table of text; its rows can be sorted and filtered."""
    head = "".join(f"<th>{escape(str(column))}</th>" for column in text.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td{_long(cell)}>{_bold(escape(cell), best)}</td>" for cell, best in row) + "</tr>\n"
        for row in cells(text)
    )
    grid = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>'
    return f'{_heading(heading)}<div class="scroll">{grid}</div>{paragraph(note)}'


def drawing(svg: str, heading: str, note: str = "") -> str:
    """A figure that follows the page's colours, see `umamba.drawing.figure.page_svg`."""
    return (
        f'{_heading(heading)}<div class="scroll" role="img" aria-label="{escape(heading)}">{svg}</div>{paragraph(note)}'
    )


def sentences(texts: Sequence[str], heading: str = "") -> str:
    """A list of sentences, above all tables."""
    return f'{_heading(heading)}<ul class="verdict">' + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def picture(path: Path, heading: str, note: str = "", name: str = "") -> str:
    """A PNG file, stored in the page itself; `name` says what it shows where the heading does not."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20]) * _CSS_PIXELS_PER_INCH // FIGURE_DPI  # its width stands there in a PNG
    source = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    image = f'<img alt="{escape(name or heading)}" width="{width}" src="{source}">'
    return f'{_heading(heading)}<div class="scroll">{image}</div>{paragraph(note)}'


def paragraph(text: str) -> str:
    """A note, or nothing for an empty text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _long(cell: str) -> str:
    return ' class="long"' if len(cell) > _LONG else ""


def _bold(html: str, bold: bool) -> str:
    return f"<b>{html}</b>" if bold else html


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>" if text else ""
