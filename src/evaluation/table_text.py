"""Numbers and tables as text: "mean ± SD", Markdown and LaTeX."""

from __future__ import annotations

import re

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


def to_markdown(text: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    rows = [list(text.columns), ["---"] * text.shape[1], *text.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(_markdown(str(cell)) for cell in row) + " |" for row in rows)


def to_latex(text: pd.DataFrame, caption: str) -> str:
    """A table of text as a LaTeX table; needs the package booktabs."""
    escaped = text.astype(str).map(_latex).rename(columns=_latex)
    body = [" & ".join(row) + r" \\" for row in (list(escaped.columns), *escaped.to_numpy().tolist())]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * escaped.shape[1]}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _markdown(text: str) -> str:
    """No name ends its cell or begins a tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(text.split())).replace("|", r"\|")


def _latex(text: str) -> str:
    text = " ".join(text.split())
    text = "".join(_LATEX.get(character, character) for character in text)
    return text.replace("±", r"$\pm$").replace("–", "--")
