"""A table of text for a terminal: no name is cut, and it fits the width as long as that can be."""

from __future__ import annotations

import logging
import shutil
import textwrap

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

log = logging.getLogger(__name__)

_WIDTH = 100  # characters where there is no terminal


def show_table(text: pd.DataFrame, caption: str) -> None:
    """Say a table in the log, which goes to the console and, of a training, to train.log."""
    log.info("%s", as_text(text, caption, shutil.get_terminal_size((_WIDTH, 24)).columns))


def as_text(text: pd.DataFrame, caption: str, width: int) -> str:
    """The table in lines, an empty one first; the caption stands below.

    Where it is wider than `width` characters, headers are broken into words and SDs stand under their means; then names
    are folded.
    """
    console = Console(width=width, color_system=None)
    table = _table(text)
    if console.measure(table).maximum >= width:
        table = _table(text, in_lines=True)
    with console.capture() as shown:
        console.print(table)
    lines = [line.rstrip() for line in shown.get().splitlines()]
    rule = next(line for line in lines if set(line) == {"─"})
    return "\n".join(["", *lines, rule, *textwrap.wrap(caption, width)])


def _table(text: pd.DataFrame, *, in_lines: bool = False) -> Table:
    """Names to the left, numbers to the right; `in_lines` puts the parts of headers and numbers below each other."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, name in enumerate(map(str, text.columns)):
        head = Text("\n".join(name.split()) if in_lines else name)
        table.add_column(head, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in text.astype(str).to_numpy().tolist():
        table.add_row(*(Text(cell.replace(" ± ", "\n±") if in_lines else cell) for cell in row))
    return table
