"""Collect scored runs from their folders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from umamba.evaluation.postprocessing import POSTPROCESSED_RUN
from umamba.evaluation.record import check_scores, read_record
from umamba.evaluation.report.comparable import check_comparable
from umamba.evaluation.report.left_out import Faults, check_any, leave_out_unknown, left_out
from umamba.evaluation.report.records import find_runs, mixed, name_of, read_runs, scores_of
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.report.told_apart import named_apart
from umamba.evaluation.table_text import read_scores
from umamba.evaluation.tables import metrics_of
from umamba.words import count, in_words

log = logging.getLogger(__name__)


def gather(folders: Sequence[Path | str], faults: Faults | None = None) -> list[ScoredRun]:
    """Find all scored runs below some folders, and name what is different; or those of the records of a benchmark.

    A training that was scored twice in the same way (by train.py and again by eval.py, or in a copied folder) counts
    once, the later one. Networks of one name that were configured differently get names that say in what.

    Args:
        folders: Looked through with all that is below them.
        faults: Gets what cannot be read and is left out: a record that is none, or beside no scores or other ones; None
            refuses the first.

    Raises:
        FileNotFoundError: A folder does not exist, or there are neither run.json nor scores.csv below it.
        ValueError: Runs were scored with different protocols, or runs of one data set cannot be compared (see
            `check_comparable`); none can be read, or without `faults` one cannot.
    """
    runs = [run for folder in map(Path, folders) for run in _read_below(folder, faults)]
    check_any(runs, faults or {})
    families = {run.record["protocol"].split("/")[0]: run.folder for run in runs}
    if len(families) > 1:
        raise ValueError(
            "These runs were scored with different protocols, which no table mixes: "
            + "; ".join(f"{protocol} in {folder}" for protocol, folder in families.items())
        )
    runs = named_apart(_each_once(runs))
    check_comparable(runs)
    log.info("Found %s.", count(len(runs), "scored run"))
    return runs


def _read_below(folder: Path, faults: Faults | None) -> Iterator[ScoredRun]:
    paths, records = sorted(folder.rglob("run.json")), find_runs(folder)
    if not paths and not records:
        leave_out_unknown(folder, faults)
    yield from of_records(read_runs(records, faults), folder)
    for path in paths:
        with left_out(faults, path):
            yield from _read(path)


def _read(path: Path) -> list[ScoredRun]:
    """A run.json and the scores beside it."""
    table = path.parent / "scores.csv"
    if not table.is_file():
        raise ValueError(f"{path} has no scores.csv beside it. Score the run again with eval.py.")
    record = read_record(path)
    try:
        scores = read_scores(table)
        cases = set(scores["case"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{table} is no table of scores ({error}). Score the run again with eval.py.") from error
    check_scores(record, cases, table)
    run = ScoredRun(
        folder=path.parent, record=record, scores=scores.drop(columns="run", errors="ignore"),
        modified=path.stat().st_mtime,
    )  # fmt: skip
    try:
        _ = run.facts, run.replicate, run.pairs, run.training_sets, run.trained_on
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of a scored run ({in_words(error)}). Score the run again with eval.py."
        ) from error
    if "run" not in scores:
        return [run]
    return [
        replace(run, processed=processed, scores=run.scores[scores["run"] == kind].reset_index(drop=True))
        for processed, kind in ((False, "plain"), (True, POSTPROCESSED_RUN))
    ]


def of_records(records: Sequence[Mapping[str, Any]], folder: Path) -> list[ScoredRun]:
    """Runs of a benchmark's records; what cannot stand in its cell is named in a warning and left out."""
    faults = mixed(records)
    for name, why in faults.items():
        log.warning("%s in %s does not count: %s.", name, folder, why)
    return [
        ScoredRun(
            folder=folder / record["dataset"],
            record={**record["run"], "network": record["network"], "cost": record["cost"], "pairs": []},
            scores=scores_of(record),
            setting=record["dataset"],
        )
        for record in records
        if name_of(record) not in faults
    ]


def _each_once(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    found: dict[str, ScoredRun] = {}
    what = [repr((run.dataset, run.record["network"], run.replicate, sorted(run.facts.items()))) for run in runs]
    for run, name in zip(runs, what, strict=True):
        data = {one.trained_on for one, other in zip(runs, what, strict=True) if other == name and one.trained_on}
        # Scores of an older version do not say what was trained on.
        key = f"{name} {run.trained_on or (data.pop() if len(data) == 1 else ())}"
        kept, dropped = (run, found.get(key)) if key not in found or run.modified > found[key].modified else (
            found[key], run)  # fmt: skip
        found[key] = kept
        if dropped is not None and not _same_scores(kept, dropped):
            log.warning(
                "%s and %s are the same training (%s on %s, %s) with different scores; the later one, %s, counts.",
                dropped.folder, kept.folder, kept.record["network"], kept.dataset, kept.replicate, kept.folder,
            )  # fmt: skip
    return list(found.values())


def _same_scores(run: ScoredRun, other: ScoredRun) -> bool:
    """Whether two scored runs have the same scores; of different versions, as far as both have a metric."""
    metrics = [metric for metric in metrics_of(run.scores) if metric in other.scores]
    one, two = (each.scores.set_index(["case", "class"]).sort_index() for each in (run, other))
    return bool(
        metrics
        and one.index.equals(two.index)
        and np.allclose(one[metrics].to_numpy(float), two[metrics].to_numpy(float), atol=1e-6, equal_nan=True)
    )
