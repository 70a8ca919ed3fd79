"""CSV whose cells no spreadsheet takes for formulas: names of cases and classes come from files and may be anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

_NAMES = ("case", "class", "run")  # columns of scores.csv
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # OWASP: how a spreadsheet knows one


def to_csv(table: pd.DataFrame, float_format: str | None = None) -> str:
    """A table as CSV without its index; text that a spreadsheet would compute gets ' in front, numbers stay numbers."""
    marked = table.rename(columns=_mark)
    for position in range(table.shape[1]):
        column = table.iloc[:, position]
        if not pd.api.types.is_numeric_dtype(column):
            marked.isetitem(position, column.map(_mark))
    return marked.to_csv(index=False, float_format=float_format)


def read_scores(path: Path) -> pd.DataFrame:
    """A scores.csv with the names that were written; names that look like numbers stay text."""
    scores = pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str), keep_default_na=False, na_values=[""])
    for name in {*_NAMES} & {*scores.columns}:
        scores[name] = scores[name].map(_unmark)
    return scores


def _mark(cell: Any) -> Any:
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def _unmark(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell
