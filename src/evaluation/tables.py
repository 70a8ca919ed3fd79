"""From scores per case and class to tables: per case, per class and in all, as CSV, Markdown and LaTeX.

Means: protocol standard over a case's classes, then over cases; paper/abdomen over the cases of an organ, then over
organs (U-Mamba's way); paper/endoscopy over an image's classes, then over images. SD: over cases (n - 1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umamba.evaluation.standard import INSTANCE_METRICS, SEMANTIC_METRICS
from umamba.files import atomic_file, write_text

METRICS = (*SEMANTIC_METRICS, *INSTANCE_METRICS)
METRIC_TITLES = {
    "dsc": "DSC",
    "nsd": "NSD",
    "hd95": "HD95",
    "volume_error": "vol. error",
    "abs_volume_error": "|vol. error|",
    "f1": "F1",
    "f1_50_95": "F1 0.5:0.95",
    "precision": "precision",
    "recall": "recall",
    "panoptic_quality": "PQ",
}
DECIMALS = {"hd95": 2, "volume_error": 3, "abs_volume_error": 3}  # of mm and shares; scores have 4
_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_IN_ALL, _IN_ALL_BESIDE = "all", "all classes"  # the row under the classes; where a class is called all, the other
RECORD = "run.json"  # beside the tables: what they were made with, see `umamba.evaluation.record`


def metrics_of(scores: pd.DataFrame) -> list[str]:
    """The metrics that a table of scores holds, in the order of `METRICS`."""
    return [metric for metric in METRICS if metric in scores.columns]


def protocol_of(scores: pd.DataFrame) -> str:
    """The one protocol of a table of scores.

    Raises:
        ValueError: There is more than one; scores of two protocols cannot be compared.
    """
    found = sorted(scores["protocol"].unique())
    if len(found) != 1:
        raise ValueError(f"These scores come from the protocols {', '.join(found)}; a table holds one. Split them.")
    return found[0]


def case_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the classes of each case.

    Args:
        scores: Of `evaluate`; a column "run" (one network or checkpoint each) is kept apart.

    Returns:
        One row per (run and) case, with one column per metric; NaN where no class of the case has a score.
    """
    return scores.groupby([*_run(scores), "case"], sort=False)[metrics_of(scores)].mean().reset_index()


def class_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over cases of each class, and in all.

    Returns:
        One row per (run and) class, the last one in all: columns cases, left_out (cases in which neither label map
        has the class), hd95_infinite (cases in which one has it), and for each metric METRIC, METRIC_sd (NaN for a
        single case); "f1_median" for paper/cells.
    """
    metrics, protocol = metrics_of(scores), protocol_of(scores)
    tables = []
    for run, part in scores.groupby("run", sort=False) if _run(scores) else [(None, scores)]:
        rows = [_row(name, group, metrics) for name, group in part.groupby("class", sort=False)]
        if len(rows) > 1:
            rows.append(_row_in_all(part, rows, metrics, protocol))
        table = pd.DataFrame(rows)
        if protocol == "paper/cells":
            table["f1_median"] = part["f1"].median()
        if run is not None:
            table.insert(0, "run", run)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def name_in_all(scores: pd.DataFrame) -> str:
    """What the row over all classes is called: as none of the classes."""
    return _IN_ALL if _IN_ALL not in set(scores["class"]) else _IN_ALL_BESIDE


def in_all(table: pd.DataFrame) -> pd.DataFrame:
    """The row of each run over all classes, of a `class_table`."""
    return table.groupby(_run(table), sort=False).tail(1) if _run(table) else table.tail(1)


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """A `class_table` as text: "mean ± SD", and the mean alone where there is a single case."""
    counts = ["cases", *(name for name in ("left_out", "hd95_infinite") if table[name].any())]
    text = table[[*_run(table), "class", *counts]].astype(str)
    for metric in metrics_of(table):
        values = zip(table[metric], table[f"{metric}_sd"], strict=True)
        text[METRIC_TITLES[metric]] = [format_score(mean, sd, DECIMALS.get(metric, 4)) for mean, sd in values]
    if "f1_median" in table.columns:
        text["median F1"] = [format_score(value) for value in table["f1_median"]]
    return text.rename(columns={"left_out": "left out", "hd95_infinite": "HD95 inf."})


def format_score(mean: float, sd: float = np.nan, decimals: int = 4) -> str:
    """As "0.8683 ± 0.0808"; without SD "0.8683"; "–" where there is nothing to average."""
    if np.isnan(mean):
        return "–"
    return f"{mean:.{decimals}f}" + ("" if np.isnan(sd) else f" ± {sd:.{decimals}f}")


def check_parquet(parquet: bool) -> None:
    """Raises ImportError if Parquet is asked for and cannot be written."""
    if parquet and find_spec("pyarrow") is None:
        raise ImportError("parquet=true needs pyarrow: pip install pyarrow, or leave it out.")


def write_tables(scores: pd.DataFrame, folder: Path | str, *, parquet: bool = False, remark: str = "") -> pd.DataFrame:
    """Write all tables of some scores into a folder.

    ``scores.csv`` holds every number by case and class, ``per_case.*`` the mean of each case, ``per_class.*`` mean and
    SD of each class and in all, ``summary.*`` the row over all classes; each as csv, md and tex. The protocol stands in
    every file. A ``run.json`` of the scores that were there goes first: it is of those alone.

    Args:
        scores: Of `evaluate`, with a column "run" if there are several networks or checkpoints.
        folder: Made if it does not exist; files of the same name are replaced.
        parquet: Write scores.parquet too (needs pyarrow).
        remark: Put behind the captions.

    Returns:
        The table per class and in all as text, to be shown.

    Raises:
        ValueError: The scores mix two protocols.
        ImportError: parquet without pyarrow.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    protocol, table, cases = protocol_of(scores), class_table(scores), case_means(scores)
    for stale in (RECORD, "scores.parquet"):
        (folder / stale).unlink(missing_ok=True)
    write_text(folder / "scores.csv", scores.to_csv(index=False))
    if parquet:
        with atomic_file(folder / "scores.parquet") as path:
            scores.to_parquet(path, index=False)
    for frame, name in ((cases, "per_case"), (table, "per_class"), (in_all(table), "summary")):
        numbers = frame.assign(protocol=protocol)
        write_text(folder / f"{name}.csv", numbers.to_csv(index=False))
    texts = {"per_case": _format_cases(cases), "per_class": format_table(table), "summary": format_table(in_all(table))}
    caption = f"{describe(scores)} {remark}".strip()
    for name, text in texts.items():
        write_text(folder / f"{name}.md", f"{to_markdown(text)}\n\n{caption}\n")
        write_text(folder / f"{name}.tex", to_latex(text, caption))
    return texts["per_class"]


def describe(scores: pd.DataFrame) -> str:
    """A caption: protocol, cases, what the numbers are, and how many scores are missing and why."""
    table = class_table(scores)
    cases = scores["case"].nunique()
    parts = [f"Protocol {protocol_of(scores)}; {cases} case{'s' * (cases > 1)}."]
    parts.append("Mean ± SD over cases." if cases > 1 else "One case only: no SD.")
    classes = table[table["class"] != name_in_all(scores)]
    if classes["left_out"].sum():
        parts.append(f"{classes['left_out'].sum()} score(s) left out: neither reference nor prediction has the class.")
    absent = classes.loc[classes["left_out"] == classes["cases"], "class"].unique()
    if len(absent):
        parts.append(f"Absent everywhere: {', '.join(absent)}.")
    if classes["hd95_infinite"].sum():
        parts.append(f"{classes['hd95_infinite'].sum()} infinite HD95 left out: one of the two lacks the class.")
    return " ".join(parts)


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


def _run(table: pd.DataFrame) -> list[str]:
    return ["run"] if "run" in table.columns else []


def _row(name: str, group: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Any]:
    main = group[metrics[0]]  # DSC or F1: missing only where both label maps are empty
    row: dict[str, Any] = {"class": name, "cases": group["case"].nunique(), "left_out": int(main.isna().sum())}
    row["hd95_infinite"] = int((group["hd95"].isna() & main.notna()).sum()) if "hd95" in metrics else 0
    for metric in metrics:
        row |= {metric: group[metric].mean(), f"{metric}_sd": group[metric].std()}
    return row


def _row_in_all(
    scores: pd.DataFrame, rows: list[dict[str, Any]], metrics: Sequence[str], protocol: str
) -> dict[str, Any]:
    cases = case_means(scores.drop(columns="run", errors="ignore"))
    row = _row(name_in_all(scores), cases, metrics)
    row |= {name: sum(int(r[name]) for r in rows) for name in ("left_out", "hd95_infinite")}
    if protocol == "paper/abdomen":
        row |= {metric: float(np.nanmean([r[metric] for r in rows])) for metric in metrics}
    return row


def _format_cases(cases: pd.DataFrame) -> pd.DataFrame:
    text = cases.copy()
    for metric in metrics_of(cases):
        text[metric] = [format_score(value, decimals=DECIMALS.get(metric, 4)) for value in cases[metric]]
    return text.rename(columns=METRIC_TITLES)


def _markdown(text: str) -> str:
    """No name ends its cell or begins a tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(text.split())).replace("|", r"\|")


def _latex(text: str) -> str:
    text = " ".join(text.split())
    text = "".join(_LATEX.get(character, character) for character in text)
    return text.replace("±", r"$\pm$").replace("–", "--")
