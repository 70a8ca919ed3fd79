"""From scores per case and class to tables: per case, per class and in all, as CSV, Markdown and LaTeX.

Means: protocol standard over a case's classes, then over cases; paper/abdomen over the cases of an organ, then over
organs (U-Mamba's way); paper/endoscopy over an image's classes, then over images. SD: over cases (n - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umamba.evaluation.metrics import INFINITE, METRICS
from umamba.evaluation.pairs import Pair
from umamba.evaluation.table_text import format_metric, format_score, show_table, to_csv, to_latex, to_markdown
from umamba.files import atomic_file, write_text
from umamba.words import count

_IN_ALL, _IN_ALL_BESIDE = "all", "all classes"  # the row under the classes; where a class is called all, the other
RECORD = "run.json"  # beside the tables: what they were made with, see `umamba.evaluation.record`
NAME = "per_source"


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


def count_infinite(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with a column NAME_infinite for each metric that can be infinite: 1 where it is, 0 elsewhere.

    Columns that are there stay; where a metric was not computed at all, nothing is counted.
    """
    main = scores[metrics_of(scores)[0]]  # DSC or F1: missing only where both label maps are empty
    counts = {
        f"{name}_infinite": (scores[name].isna() & main.notna()).astype(int) if name in scores else 0
        for name in INFINITE
    }
    return scores.assign(**{name: number for name, number in counts.items() if name not in scores})


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
        has the class), hd95_infinite and kin (scores that are infinite, for one of the two has it), and for each metric
        METRIC, METRIC_sd (NaN for a single case); "f1_median" for paper/cells.
    """
    metrics, protocol = metrics_of(scores), protocol_of(scores)
    scores = count_infinite(scores)
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
    titles = {"left_out": "left out"} | {f"{name}_infinite": f"{METRICS[name].title} inf." for name in INFINITE}
    counts = ["cases", *(name for name in titles if table[name].any())]
    text = table[[*_run(table), "class", *counts]].astype(str)
    for metric in metrics_of(table):
        values = zip(table[metric], table[f"{metric}_sd"], strict=True)
        text[METRICS[metric].title] = [format_metric(metric, mean, sd) for mean, sd in values]
    if "f1_median" in table.columns:
        text["median F1"] = [format_score(value) for value in table["f1_median"]]
    return text.rename(columns=titles)


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
    write_text(to_csv(scores), folder / "scores.csv")
    if parquet:
        with atomic_file(folder / "scores.parquet") as path:
            scores.to_parquet(path, index=False)
    for frame, name in ((cases, "per_case"), (table, "per_class"), (in_all(table), "summary")):
        numbers = frame.assign(protocol=protocol)
        write_text(to_csv(numbers), folder / f"{name}.csv")
    texts = {"per_case": _format_cases(cases), "per_class": format_table(table), "summary": format_table(in_all(table))}
    caption = f"{describe(scores)} {remark}".strip()
    for name, text in texts.items():
        write_text(f"{to_markdown(text)}\n\n{caption}\n", folder / f"{name}.md")
        write_text(to_latex(text, caption), folder / f"{name}.tex")
    return texts["per_class"]


def describe(scores: pd.DataFrame) -> str:
    """A caption: protocol, cases, what the numbers are, and how many scores are missing and why."""
    table = class_table(scores)
    cases = scores["case"].nunique()
    parts = [f"Protocol {protocol_of(scores)}; {count(cases, 'case')}."]
    parts.append("Mean ± SD over cases." if cases > 1 else "One case only: no SD.")
    classes = table[table["class"] != name_in_all(scores)]
    if classes["left_out"].sum():
        left_out = count(int(classes["left_out"].sum()), "score")
        parts.append(f"{left_out} left out: neither reference nor prediction has the class.")
    absent = classes.loc[classes["left_out"] == classes["cases"], "class"].unique()
    if len(absent):
        parts.append(f"Absent everywhere: {', '.join(absent)}.")
    for name in INFINITE:
        if left_out := classes[f"{name}_infinite"].sum():
            parts.append(f"{left_out} infinite {METRICS[name].title} left out: one of the two lacks the class.")
    return " ".join(parts)


def _run(table: pd.DataFrame) -> list[str]:
    return ["run"] if "run" in table.columns else []


def _row(name: str, group: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Any]:
    main = group[metrics[0]]  # DSC or F1: missing only where both label maps are empty
    row: dict[str, Any] = {"class": name, "cases": group["case"].nunique(), "left_out": int(main.isna().sum())}
    row |= {f"{name}_infinite": int(group[f"{name}_infinite"].sum()) for name in INFINITE}
    for metric in metrics:
        row |= {metric: group[metric].mean(), f"{metric}_sd": group[metric].std()}
    return row


def _row_in_all(
    scores: pd.DataFrame, rows: list[dict[str, Any]], metrics: Sequence[str], protocol: str
) -> dict[str, Any]:
    cases = case_means(scores.drop(columns="run", errors="ignore"))
    row = _row(name_in_all(scores), count_infinite(cases), metrics)
    row |= {name: sum(int(r[name]) for r in rows) for name in ("left_out", *(f"{name}_infinite" for name in INFINITE))}
    if protocol == "paper/abdomen":
        row |= {metric: float(np.nanmean([r[metric] for r in rows])) for metric in metrics}
    return row


def _format_cases(cases: pd.DataFrame) -> pd.DataFrame:
    text = cases.copy()
    for metric in metrics_of(cases):
        text[metric] = [format_metric(metric, value) for value in cases[metric]]
    return text.rename(columns={name: metric.title for name, metric in METRICS.items()})


def write_source_tables(scores: pd.DataFrame, pairs: Sequence[Pair], folder: Path) -> None:
    """Write and show ``per_source`` as csv and md: a table per class for each data set; nothing where there is one."""
    sources = {pair.case: pair.source.name for pair in pairs if pair.source is not None}
    for ending in ("csv", "md"):
        (folder / f"{NAME}.{ending}").unlink(missing_ok=True)  # of scores that were there before
    if not sources:
        return
    source = scores["case"].map(sources)
    table = class_table(scores.assign(run=source + ", " + scores["run"] if "run" in scores else source))
    table = table.rename(columns={"run": "data set"})
    write_text(to_csv(table.assign(protocol=protocol_of(scores))), folder / f"{NAME}.csv")
    text = format_table(table.rename(columns={"data set": "run"})).rename(columns={"run": "data set"})
    gone = {pair.source.name: pair.source.unlabelled for pair in pairs if pair.source and pair.source.unlabelled}
    caption = "".join(f" {name} has no labels of {', '.join(classes)}." for name, classes in gone.items())
    caption = f"Each data set by itself.{caption}"
    write_text(f"{to_markdown(text)}\n\n{caption}\n", folder / f"{NAME}.md")
    show_table(text, caption)
