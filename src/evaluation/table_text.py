"""Numbers and tables as text: "mean ± SD"; CSV, Markdown, LaTeX and lines for a terminal.

Names of cases and classes come from files and may be anything: in CSV no spreadsheet takes them for formulas.
"""

from __future__ import annotations

import logging
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from umamba.evaluation.metrics import METRICS

log = logging.getLogger(__name__)
_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_NAMES = ("case", "class", "run")  # columns of scores.csv
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # OWASP: how a spreadsheet knows one
_WIDTH = 100  # characters where there is no terminal


def format_score(mean: float, sd: float = np.nan, decimals: int = 4) -> str:
    """As "0.8683 ± 0.0808"; without SD "0.8683"; "–" where there is nothing to average."""
    if np.isnan(mean):
        return "–"
    return f"{mean:.{decimals}f}" + ("" if np.isnan(sd) else f" ± {sd:.{decimals}f}")


def format_metric(metric: str, mean: float, sd: float = np.nan) -> str:
    """As `format_score`, with the metric's decimals."""
    return format_score(mean, sd, METRICS[metric].decimals)


def mark_best(text: pd.DataFrame, column: str, values: Sequence[float], *, lower_is_better: bool = False) -> None:
    """Have the best cells of a column of a table of text written in bold, where there are two to compare.

    Args:
        text: The table, changed in place.
        column: Name of the column.
        values: The numbers that its texts show, row by row; NaN for none. Those that read alike are equally good.
            Infinite for a mean that left something infinite out: it is worse than any that did not, and never the best.
        lower_is_better: Whether smaller values are better, as those of a distance.
    """
    numbers = np.asarray(values, dtype=float)
    finite = np.isfinite(numbers)
    if (~np.isnan(numbers)).sum() < 2 or not finite.any():
        return
    numbers = np.where(finite, numbers, np.nan)
    best = np.nanargmin(numbers) if lower_is_better else np.nanargmax(numbers)
    leading = text[column].astype(str).str.split(" ", n=1).str[0]
    marked = {(row, column) for row in np.flatnonzero((leading == leading.iloc[best]) & finite)}
    if len(marked) < len(text):  # all alike: none is best
        text.attrs["best"] = text.attrs.get("best", set()) | marked


def cells(text: pd.DataFrame) -> Iterator[list[tuple[str, bool]]]:
    """The rows of a table of text: each cell, and whether it is one of the best of its column."""
    best = text.attrs.get("best", set())
    for index, row in enumerate(text.astype(str).to_numpy().tolist()):
        yield [(cell, (index, column) in best) for cell, column in zip(row, text.columns, strict=True)]


def to_markdown(text: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    body = [[f"**{markdown(cell)}**" if best else markdown(cell) for cell, best in row] for row in cells(text)]
    rows = [[markdown(str(column)) for column in text.columns], ["---"] * text.shape[1], *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def to_latex(text: pd.DataFrame, caption: str) -> str:
    """A table of text as a LaTeX table; needs the package booktabs."""
    rows = [[rf"\textbf{{{_latex(cell)}}}" if best else _latex(cell) for cell, best in row] for row in cells(text)]
    body = [" & ".join(row) + r" \\" for row in ([_latex(str(column)) for column in text.columns], *rows)]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * text.shape[1]}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def markdown(text: str) -> str:
    """No name ends its cell or begins a tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(text.split())).replace("|", r"\|")


def _latex(text: str) -> str:
    text = " ".join(text.split())
    text = "".join(_LATEX.get(character, character) for character in text)
    return text.replace("±", r"$\pm$").replace("–", "--")


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
