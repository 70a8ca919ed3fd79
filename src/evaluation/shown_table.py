"""A table of text for a terminal: no name is cut, and it fits the width as long as that can be."""

from __future__ import annotations

import logging
import shutil
import textwrap

import pandas as pd

log = logging.getLogger(__name__)

_GAP = "  "
_WIDTH = 100  # characters where there is no terminal
_NARROWEST = 12  # characters that are left for the names of the first column before they are folded


def show_table(text: pd.DataFrame, caption: str) -> None:
    """Say a table in the log, which goes to the console and, of a training, to train.log."""
    log.info("%s", as_text(text, caption, shutil.get_terminal_size((_WIDTH, 24)).columns))


def as_text(text: pd.DataFrame, caption: str, width: int) -> str:
    """The table in lines, an empty one first.

    Args:
        text: what its cells say.
        caption: stands below.
        width: in characters. Where the table is wider, headers are broken into words and SDs stand under their means;
            then names are folded.
    """
    rows = [[str(name) for name in text.columns], *text.astype(str).to_numpy().tolist()]
    cells = [[[cell] for cell in row] for row in rows]
    if _width(cells) > width:
        cells = [[words.split() for words in rows[0]], *([_under(cell) for cell in row] for row in rows[1:])]
        room = width - _width([row[1:] for row in cells]) - len(_GAP)
        names = [row[0] if number == 0 else _folded(row[0][0], room) for number, row in enumerate(cells)]
        cells = [[name, *row[1:]] for name, row in zip(names, cells, strict=True)]
    widths = [max(len(line) for line in column) for column in _columns(cells)]
    header, *body = ["\n".join(_lines(row, widths)) for row in cells]
    rule = "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    return "\n".join(["", header, rule, *body, rule, *textwrap.wrap(caption, width)])


def _under(cell: str) -> list[str]:
    mean, found, deviation = cell.partition(" ± ")
    return [mean, f"±{deviation}"] if found else [cell]


def _folded(name: str, room: int) -> list[str]:
    return textwrap.wrap(name, max(room, _NARROWEST)) or [name]


def _columns(cells: list[list[list[str]]]) -> list[list[str]]:
    return [[line for row in cells for line in row[at] or [""]] for at in range(len(cells[0]))]


def _width(cells: list[list[list[str]]]) -> int:
    columns = _columns(cells)
    return sum(max(map(len, column)) for column in columns) + len(_GAP) * (len(columns) - 1)


def _lines(row: list[list[str]], widths: list[int]) -> list[str]:
    """The lines of one row; names to the left, numbers to the right."""
    height = max(map(len, row))
    found = []
    for number in range(height):
        line = [cell[number] if number < len(cell) else "" for cell in row]
        first = line[0].ljust(widths[0])
        rest = [part.rjust(width) for part, width in zip(line[1:], widths[1:], strict=True)]
        found.append(_GAP.join([first, *rest]).rstrip())
    return found
