"""Whether rows can stand in one table: one data set, scored in one way; and notes where cases or scores differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.tables import metrics_of

_WAY_OUT = (
    "Score them one by one; `python -m umamba.evaluation.report runs=<folder of the outputs> output=report` then shows "
    "them side by side, each data set in tables of its own."
)


def check_one_data_set(datamodules: Mapping[Path, SegmentationDataModule]) -> None:
    """See that checkpoints are scored on one data set, by its folder.

    Raises:
        ValueError: They are not; names two of them and their data sets.
    """
    (first, one), *others = datamodules.items()
    for path, other in others:
        if other.dataset_dir.resolve() != one.dataset_dir.resolve():
            raise ValueError(
                f"{first} and {path} are of two data sets, {one.dataset_dir} and {other.dataset_dir}, whose scores are "
                f"not comparable and have no place in one table. {_WAY_OUT} If they are copies of one data set, say "
                "which to take with data.dataset_dir=..."
            )


def check_one_way(rows: Mapping[str, Scoring]) -> None:
    """See that the rows of a table are scored with the same classes, task, NSD tolerances and growth.

    Raises:
        ValueError: They are not; names two of them and what differs.
    """
    (first, one), *others = rows.items()
    for name, other in others:
        for what in ("task", "scored", "tolerances", "grow"):
            here, there = getattr(one, what), getattr(other, what)
            if here != there:
                called = {"scored": "classes", "tolerances": "NSD tolerances", "grow": "grow (px)"}.get(what, what)
                one_for_all = ", or give grow=..., which is then that of all" * (what == "grow")
                raise ValueError(f"{first} and {name} differ in {called}: {here} and {there}{one_for_all}. {_WAY_OUT}")


def note_on_cases(rows: Mapping[str, Sequence[str]]) -> str:
    """What to say in the caption of a table whose rows are of different cases; "" where they are of the same."""
    if len({frozenset(cases) for cases in rows.values()}) == 1:
        return ""
    counts = "; ".join(f"{name}: {len(cases)}" for name, cases in rows.items())
    shared = len(frozenset.intersection(*(frozenset(cases) for cases in rows.values())))
    return f"The rows are of different cases and not comparable (cases by row: {counts}; {shared} in all of them)."


def note_on_scores(rows: Mapping[str, pd.DataFrame]) -> str:
    """What to say where means of the same cases are over different scores; "" where over the same."""
    scored = {}
    for name, scores in rows.items():
        found = scores[scores[metrics_of(scores)[0]].notna()]
        scored[name] = frozenset(zip(found["case"], found["class"], strict=True))
    if len(set(scored.values())) < 2:
        return ""
    counts = "; ".join(f"{name}: {len(some)}" for name, some in scored.items())
    return (
        f"The means are over different scores ({counts}): of a class that a reference lacks, one that finds none has "
        "no score and one that does has 0, which can decide between them."
    )
