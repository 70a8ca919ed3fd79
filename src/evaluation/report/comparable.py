"""Whether the runs of one data set can stand in one table: the same cases, labels, task and tolerances."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from umamba.evaluation.report.scored_run import ScoredRun
from umamba.words import listed


def check_comparable(runs: Sequence[ScoredRun]) -> None:
    """See that the runs of each data set were scored alike, on the same cases.

    All runs on a test set must have the same cases. Of validation folds each network's runs together must have those
    of every other network, and runs of the same folds the same ones. Runs of one fold of the same training cases must
    have been trained on the same of them.

    Raises:
        ValueError: They were not; names two runs and what differs.
    """
    by_dataset: dict[str, list[ScoredRun]] = {}
    for run in runs:
        by_dataset.setdefault(run.dataset, []).append(run)
    for dataset, some in by_dataset.items():
        _check_manner(dataset, some)
        _check_content(dataset, some)
        _check_cases(dataset, some)
        _check_splits(dataset, some)


def _check_manner(dataset: str, runs: Sequence[ScoredRun]) -> None:
    for run in runs[1:]:
        for what, one, other in zip(_MANNER, _manner(runs[0]), _manner(run), strict=True):
            if one != other:
                raise ValueError(
                    f"{_named(runs[0], run, dataset)}, but differ in {what}: {json.dumps(one)} and "
                    f"{json.dumps(other)}. {_WAY_OUT}"
                )


def _check_content(dataset: str, runs: Sequence[ScoredRun]) -> None:
    seen: dict[str, tuple[str, ScoredRun]] = {}
    for run in runs:
        for case, content in run.record["cases"].items():
            known, first = seen.setdefault(case, (content, run))
            if known != content:
                raise ValueError(
                    f"{_named(first, run, dataset)}, but the reference of case {case} was another one: they are two "
                    f"data sets of one name, or the reference has been changed since. {_WAY_OUT}"
                )


def _check_cases(dataset: str, runs: Sequence[ScoredRun]) -> None:
    units: dict[object, tuple[set[str], ScoredRun]] = {}  # what must have the same cases among themselves
    by_network: dict[str, tuple[set[str], ScoredRun]] = {}
    for run in runs:
        cases = set(run.scores["case"])
        unit = run.folds if run.record["scored"] == "validation" else None
        known, first = units.setdefault(unit, (cases, run))
        _compare(dataset, known, cases, first, run)
        together, first = by_network.setdefault(run.network, (set(), run))
        together |= cases
    networks = list(by_network.values())
    for cases, run in networks[1:]:
        _compare(dataset, networks[0][0], cases, networks[0][1], run)


def _check_splits(dataset: str, runs: Sequence[ScoredRun]) -> None:
    """The same fold of the same cases was trained on the same of them, unless it is a fold of another split."""
    seen: dict[object, ScoredRun] = {}
    for run in runs:
        first = seen.setdefault((run.folds, run.training_sets), run) if run.trained_on else run
        if first.trained_on != run.trained_on:
            raise ValueError(
                f"{_named(first, run, dataset)}, but were trained on different cases, though both are of fold "
                f"{' + '.join(run.folds)}: they are of two splits of the data set. {_WAY_OUT}"
            )


def _compare(dataset: str, one: set[str], other: set[str], first: ScoredRun, second: ScoredRun) -> None:
    if one == other:
        return
    lists = [
        f"only {run.network} in {run.folder} has {listed(sorted(surplus), 5)}"
        for run, surplus in ((first, one - other), (second, other - one))
        if surplus
    ]
    raise ValueError(
        f"{_named(first, second, dataset)}, but not on the same cases: {'; '.join(lists)}. Averages and tests over "
        f"other cases say nothing about the networks. {_WAY_OUT}"
    )


_MANNER = ("task", "labels", "regions", "protocol", "NSD tolerances")
_WAY_OUT = "Score them alike with eval.py, or report them apart: runs=[FOLDER,...]."


def _manner(run: ScoredRun) -> tuple[Any, ...]:
    tolerances = {}
    if "nsd_tolerance" in run.scores:
        tolerances = run.scores.groupby("class")["nsd_tolerance"].first().to_dict()
    labels, regions = (dict(sorted(run.record.get(key, {}).items())) for key in ("labels", "regions"))
    return run.record["task"], labels, regions, run.record["protocol"], tolerances


def _named(first: ScoredRun, second: ScoredRun, dataset: str) -> str:
    return f"{first.folder} ({first.network}) and {second.folder} ({second.network}) were both scored on {dataset}"
