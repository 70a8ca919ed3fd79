"""Scores by fold: the mean over all cases, and its SD over folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from umamba.evaluation.table_text import to_csv, to_latex, to_markdown
from umamba.evaluation.tables import class_table, describe, format_table, metrics_of, protocol_of
from umamba.files import write_text


def foreground_mean(scores: pd.DataFrame, metric: str) -> float:
    """nnU-Net's: the mean over classes of their mean over cases, without cases in which neither map has the class."""
    return float(scores.groupby("class")[metric].mean().mean())


def fold_means(scores: pd.DataFrame) -> dict[Any, dict[str, float | None]]:
    """Mean of the first metric (DSC, or F1) over the classes, of each value of the column "fold" and "pooled"."""
    metric = metrics_of(scores)[0]
    values: dict[Any, float] = {n: foreground_mean(part, metric) for n, part in scores.groupby("fold", sort=False)}
    values["pooled"] = foreground_mean(scores, metric)
    return {key: {f"mean_{metric}": None if pd.isna(value) else value} for key, value in values.items()}


def write_fold_tables(scores: pd.DataFrame, folder: Path, remark: str = "") -> None:
    """Write ``folds.csv``, a row per fold and class, and ``over_folds`` as csv, md and tex: mean and SD over folds.

    The mean is that over all cases; the SD is that of the folds' means (n - 1). `scores` are those of `evaluate`, with
    a column "fold"; `remark` is put behind the caption.
    """
    metrics = metrics_of(scores)
    by_fold = pd.concat(
        [
            class_table(part.drop(columns="fold")).assign(fold=number)
            for number, part in scores.groupby("fold", sort=False)
        ],
        ignore_index=True,
    )
    table = class_table(scores.drop(columns="fold"))
    spread = by_fold.groupby("class")[metrics].std()
    for metric in metrics:
        table[f"{metric}_sd"] = [spread[metric].get(name, float("nan")) for name in table["class"]]
    protocol = protocol_of(scores)
    columns = ["fold", *(column for column in by_fold.columns if column != "fold")]
    write_text(to_csv(by_fold[columns].assign(protocol=protocol)), folder / "folds.csv")
    write_text(to_csv(table.assign(folds=scores["fold"].nunique(), protocol=protocol)), folder / "over_folds.csv")
    caption = f"{describe(scores)} {remark}".strip().replace(
        "Mean ± SD over cases.", f"Mean over all cases ± SD of the means of {scores['fold'].nunique()} folds."
    )
    text = format_table(table)
    write_text(f"{to_markdown(text)}\n\n{caption}\n", folder / "over_folds.md")
    write_text(to_latex(text, caption), folder / "over_folds.tex")
