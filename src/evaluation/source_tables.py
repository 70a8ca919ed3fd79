"""Scores of each of the data sets that were made into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from umamba.evaluation.csv_cells import to_csv
from umamba.evaluation.pairs import Pair
from umamba.evaluation.shown_table import show_table
from umamba.evaluation.table_text import to_markdown
from umamba.evaluation.tables import class_table, format_table, protocol_of
from umamba.files import write_text

NAME = "per_source"


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
