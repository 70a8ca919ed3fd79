"""Score pairs of prediction and reference, several cases at a time, into one table."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import Progress

from umamba.evaluation import paper, standard
from umamba.evaluation.pairs import GridError, Pair, read_pair
from umamba.machine import usable_cpus
from umamba.processes import worker_pool
from umamba.raw.description import PICTURE_ENDINGS
from umamba.raw.instances import classes_to_instances
from umamba.raw.organs import ABDOMEN_TOLERANCES, organ_of

log = logging.getLogger(__name__)

PROTOCOLS = ("standard", "paper")
TASKS = ("semantic", "instances")
FAULTS_SHOWN = 50
WORTH_PROCESSES = 20.0  # s of work left: a process takes up to 10 s to start (it imports what the script imports)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a case is scored; what travels to the processes. See `evaluate` for the meaning."""

    labels: Mapping[str, int]
    tolerances: Mapping[str, float]
    ignore_label: int | None
    task: str
    protocol: str
    instance_predictions: bool
    grow: bool


def evaluate(
    pairs: Iterable[Pair],
    labels: Mapping[str, int],
    *,
    task: str = "semantic",
    tolerance: float | Mapping[str, float] | None = None,
    ignore_label: int | None = None,
    protocol: str = "standard",
    instance_predictions: bool = False,
    grow: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score predictions against references.

    Args:
        pairs: From `umamba.evaluation.pairs`.
        labels: Class name -> value; the background (0) is not scored.
        task: "semantic" scores classes (DSC, NSD, HD95, volume error), "instances" scores instances (F1 and kin).
        tolerance: Of NSD, for all classes or by class name; mm, or px where the files have no voxel size. Needed for
            semantic data under protocol standard; protocol paper brings its own.
        ignore_label: Voxels with this value in the reference count for nothing.
        protocol: "standard", or "paper" for comparisons with the paper's tables (see `umamba.evaluation.paper`).
        instance_predictions: Instance data only: predictions are instance maps already, not maps of classes.
        grow: Instance data only: grow the predicted instances back over the boundary class.
        workers: Processes; 0 or 1 scores in this one, None takes the CPUs at hand if that is worth it.
        progress: Show a progress bar.

    Returns:
        One row per case and class: protocol, case, class and the scores of `umamba.evaluation.standard` or
        `umamba.evaluation.paper`; the protocol is "standard", "paper/abdomen", "paper/endoscopy" or "paper/cells".

    Raises:
        ValueError: No pairs, a case twice, an unknown protocol or task, a tolerance missing or negative, labels that
            the protocol does not know; or files are missing, cannot be read, or do not fit each other: all of them are
            looked at first and named.
        RuntimeError: A process was killed.
    """
    pairs = list(pairs)
    scoring = _check(pairs, labels, task, tolerance, ignore_label, protocol, instance_predictions, grow)
    score = partial(score_pair, scoring=scoring)
    with Progress(transient=True, disable=not progress) as bar:
        results = list(bar.track(_results(pairs, score, workers), total=len(pairs), description="Scoring"))
    faults = [result for result in results if isinstance(result, str)]
    if faults:
        more = [f"and {len(faults) - FAULTS_SHOWN} more"] if len(faults) > FAULTS_SHOWN else []
        listing = "\n  ".join([*faults[:FAULTS_SHOWN], *more])
        raise ValueError(f"{len(faults)} of {len(pairs)} case(s) cannot be scored:\n  {listing}")
    rows = [row for result in results for row in result]
    if not rows:
        raise ValueError(f"Protocol {protocol} left out each of the {len(pairs)} case(s); the warnings say why.")
    return pd.DataFrame(rows)


def score_pair(pair: Pair, scoring: Scoring) -> list[dict[str, Any]] | str:
    """Read and score one pair.

    Returns:
        A row per class, or what is wrong with the files, naming them.
    """
    try:
        return _score_pair(pair, scoring)
    except GridError as error:
        if (scoring.protocol, scoring.task) != ("paper", "instances"):
            return str(error)
        log.warning("Protocol paper: case %s dropped. %s", pair.case, error)  # as the paper's script does
        return []
    except (ValueError, OSError) as error:
        return str(error)


def _score_pair(pair: Pair, scoring: Scoring) -> list[dict[str, Any]]:
    reference, prediction, spacing = read_pair(pair)
    if scoring.task == "instances" and not scoring.instance_predictions:
        prediction = _to_instances(prediction, pair, scoring)
    try:
        variant, rows = _score(reference, prediction, spacing, scoring)
    except ValueError as error:
        raise ValueError(f"Case {pair.case}, {pair.prediction} against {pair.reference}: {error}") from error
    return [{"protocol": variant, "case": pair.case} | row for row in rows]


def _score(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], scoring: Scoring
) -> tuple[str, list[dict]]:
    if scoring.protocol == "paper":
        if scoring.task == "instances":
            return "paper/cells", paper.score_cells(reference, prediction)
        _check_values(reference, prediction, max(scoring.labels.values()))
        if reference.ndim == 2:
            return "paper/endoscopy", paper.score_endoscopy(reference, prediction, scoring.labels)
        labels = abdomen_labels(scoring.labels)
        return "paper/abdomen", paper.score_abdomen(reference, prediction, spacing, labels)
    if scoring.task == "instances":
        return "standard", standard.score_instances(reference, prediction)
    arguments = (scoring.labels, scoring.tolerances, scoring.ignore_label)
    return "standard", standard.score_semantic(reference, prediction, spacing, *arguments)


def _check_values(reference: np.ndarray, prediction: np.ndarray, highest: int) -> None:
    """See that no label map holds a value of no class; the paper's scripts would take it for background."""
    for what, label in (("reference", reference), ("prediction", prediction)):
        for value in (int(label.min(initial=0)), int(label.max(initial=0))):
            if not 0 <= value <= highest:
                raise ValueError(f"The {what} holds label {value}; expected labels 0 to {highest}.")


def check_instance_options(task: str, *, grow: bool, instance_predictions: bool = False) -> None:
    """Refuse options of instance data that would not act.

    Raises:
        ValueError: One is set where it does nothing.
    """
    if task != "instances" and (grow or instance_predictions):
        which = "grow" if grow else "instance_predictions"
        raise ValueError(f"{which}=true is for task=instances; this task is {task}. Leave it out.")
    if grow and instance_predictions:
        raise ValueError("grow=true grows instances out of class maps; instance_predictions=true gives it none.")


def check_tolerance(tolerance: object, labels: Mapping[str, int]) -> None:
    """Say before any work whether a tolerance of NSD is one, for these classes.

    Raises:
        ValueError: It is no number >= 0, nor one for each class, or names a class that there is not.
    """
    foreground = [name for name, value in labels.items() if value != 0]
    given = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(foreground, tolerance)
    unknown = sorted(str(name) for name in given if name not in foreground)
    if unknown:
        raise ValueError(f"nsd_tolerance names {', '.join(unknown)}; the classes are {', '.join(foreground)}.")
    tolerances_of(tolerance, foreground)


def tolerances_of(tolerance: object, foreground: Sequence[str]) -> dict[str, float]:
    """NSD's tolerance of each class.

    Raises:
        ValueError: It is no number >= 0, nor one for each class.
    """
    given: Mapping[str, Any] = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(foreground, tolerance)
    bad = [name for name in foreground if not _is_tolerance(given.get(name))]
    if bad:
        raise ValueError(
            f"NSD needs a tolerance >= 0 (mm, or px for pictures) for {', '.join(bad)}; got {tolerance!r}. Set "
            "nsd_tolerance to a number, or to {class name: number}."
        )
    return {name: float(given[name]) for name in foreground}


def _is_tolerance(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def check_protocol(protocol: str, labels: Mapping[str, int], task: str, file_ending: str) -> None:
    """Say before any work whether a protocol fits a data set.

    Raises:
        ValueError: The protocol is unknown, or scores other classes.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, it is {protocol!r}.")
    if protocol == "paper" and task == "semantic" and file_ending not in PICTURE_ENDINGS:
        abdomen_labels({name: value for name, value in labels.items() if value != 0})


def abdomen_labels(labels: Mapping[str, int]) -> dict[str, int]:
    """The labels in the paper's order, if they are its 13 organs.

    Raises:
        ValueError: They are not.
    """
    ordered = dict(sorted(labels.items(), key=lambda item: item[1]))
    expected = list(ABDOMEN_TOLERANCES)
    matches = len(ordered) == len(expected) and all(
        value == index and organ_of(name) == organ
        for index, (organ, (name, value)) in enumerate(zip(expected, ordered.items(), strict=False), start=1)
    )
    if not matches:
        raise ValueError(
            f"Protocol paper scores volumes by the abdomen's 13 organs, 1 to 13: {', '.join(expected)}. These labels "
            f"are {ordered}. Use protocol=standard."
        )
    return ordered


def _to_instances(prediction: np.ndarray, pair: Pair, scoring: Scoring) -> np.ndarray:
    highest = max(scoring.labels.values())
    if prediction.max(initial=0) > highest or prediction.min(initial=0) < 0:
        raise ValueError(
            f"{pair.prediction} holds label {prediction.max()}; expected the classes 0 to {highest}. If it is an "
            "instance map, set instance_predictions=true."
        )
    return classes_to_instances(prediction, grow=scoring.grow)


def _results(
    pairs: list[Pair], score: Callable[[Pair], list[dict] | str], workers: int | None
) -> Iterator[list[dict] | str]:
    """The rows of each pair, in order, made by processes if there are to be several."""
    if workers is None:
        workers, started = 0, time.perf_counter()
        for done, pair in enumerate(pairs, start=1):
            yield score(pair)
            if done == 1:
                started = time.perf_counter()  # the first case pays for imports
            elif (time.perf_counter() - started) / (done - 1) * (len(pairs) - done) > WORTH_PROCESSES:
                workers = min(usable_cpus(), len(pairs) - done)
                break
        pairs = pairs[done:]
    if workers <= 1:
        yield from map(score, pairs)
        return
    try:
        with worker_pool(workers) as pool:
            yield from pool.map(score, pairs)
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"One of {workers} scoring processes was killed, most likely for want of memory. Use fewer workers "
            "(0 scores in the main process)."
        ) from error


def _check(
    pairs: list[Pair], labels: Mapping[str, int], task: str, tolerance: float | Mapping[str, float] | None,
    ignore_label: int | None, protocol: str, instance_predictions: bool, grow: bool,
) -> Scoring:  # fmt: skip
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, it is {task!r}.")
    if not pairs:
        raise ValueError("There is nothing to score: no pair of prediction and reference.")
    check_instance_options(task, grow=grow, instance_predictions=instance_predictions)
    check_protocol(protocol, labels, task, pairs[0].reference.suffix)
    names = [pair.case for pair in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Cases must have names of their own; given twice: {', '.join(twice)}.")
    foreground = {name: int(value) for name, value in labels.items() if value != 0}
    if not foreground:
        raise ValueError(f"There is no class to score in the labels {dict(labels)}.")
    tolerances: dict[str, float] = {}
    if task == "semantic" and protocol == "standard":
        tolerances = tolerances_of(tolerance, list(foreground))
    if protocol == "paper" and ignore_label is not None:
        raise ValueError("Protocol paper knows no ignore label. Use protocol=standard for this data set.")
    return Scoring(
        labels=foreground, tolerances=tolerances, ignore_label=ignore_label, task=task, protocol=protocol,
        instance_predictions=instance_predictions, grow=grow,
    )  # fmt: skip
