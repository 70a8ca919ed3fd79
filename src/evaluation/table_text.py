"""Numbers and tables as text: "mean ± SD", Markdown and LaTeX, the best of each column in bold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from umamba.evaluation.metrics import METRICS

_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


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
