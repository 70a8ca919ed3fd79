"""Whether a record of a run agrees with itself: what can be worked out from other parts of it is worked out again.

A score that was changed together with all that follows from it is not found: nothing but the label maps, which a record
does not have, could tell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from umamba.evaluation.metrics import METRICS
from umamba.files import content_hash
from umamba.plain import mapped

OWN_HASH = "record_hash"  # of all else in a record; those of earlier versions have none
_RANGES = {"hd95": (0.0, math.inf), "volume_error": (-1.0, math.inf), "abs_volume_error": (0.0, math.inf)}
_SHARE = (0.0, 1.0)  # of all other metrics
_ROUNDED = 1e-6  # as scores in records are
_LAST_DIGITS = 1e-4  # share by which a number differs that was worked out from rounded ones
_UNCOUNTED = 20.0  # s of a start that its runner may not have counted before it was killed


def fault_of(record: Mapping[str, Any]) -> str:
    """What is wrong with a record, in words; "" if nothing is.

    Raises:
        KeyError, TypeError, ValueError: It has another form.
    """
    return next((fault for check in _CHECKS for fault in check(record)), "")


def rounded(value: Any) -> Any:
    """Six digits of a number: what was computed on another machine differs in the last bits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def steady_hash(value: Any) -> str:
    """Hash of nested plain data, with six digits of every number."""
    return content_hash(mapped(value, rounded))


def hash_of(record: Mapping[str, Any]) -> str:
    """Hash of all in a record but the hash itself."""
    return content_hash({key: value for key, value in record.items() if key != OWN_HASH})


def _rows(record: Mapping[str, Any]) -> Iterator[str]:
    """One row for each case and class, with possible scores."""
    columns, rows = record["scores"]["columns"], record["scores"]["rows"]
    keys = [(row[columns.index("case")], row[columns.index("class")]) for row in rows]
    yield from (f"{' of '.join(reversed(key))} is scored twice" for key, count in Counter(keys).items() if count > 1)
    cases, classes = record["run"]["cases"], {name for _, name in keys}
    for case in sorted({case for case, _ in keys} - set(cases)):
        yield f"it has scores of {case}, which is none of the cases that were scored"
    # The scripts of protocol paper leave out cases and classes.
    if record["run"]["protocol"] == "standard":
        for key in sorted({(case, name) for case in cases for name in classes} - set(keys)):
            yield f"it lacks the score of {' of '.join(reversed(key))}"
    for at, metric in enumerate(columns):
        low, high = _RANGES.get(metric, _SHARE)
        for key, row in zip(keys, rows if metric in METRICS else (), strict=False):
            if row[at] is not None and not low - _ROUNDED <= row[at] <= high + _ROUNDED:
                yield f"the {METRICS[metric].title} of {' of '.join(reversed(key))} is {row[at]!r}"


def _scores(record: Mapping[str, Any]) -> Iterator[str]:
    """Scores of one row that follow from each other, or bound each other."""
    if record["run"]["protocol"] != "standard":
        return
    for row in record["scores"]["rows"]:
        scores = dict(zip(record["scores"]["columns"], row, strict=True))
        for first, second in _disagreeing(scores):
            where = f"{scores['class']} of {scores['case']}"
            yield f"{where} has a {METRICS[first].title} that its {METRICS[second].title} rules out"


def _disagreeing(scores: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = {name: value for name, value in scores.items() if value is not None}

    def has(*names: str) -> bool:
        return known.keys() >= set(names)

    sizes = has("volume_error", "abs_volume_error")
    if sizes and abs(abs(known["volume_error"]) - known["abs_volume_error"]) > 2 * _ROUNDED:
        yield "abs_volume_error", "volume_error"
    if has("dsc", "volume_error"):
        predicted = 1 + known["volume_error"]  # in units of the reference's volume
        if known["dsc"] > 2 * min(1, predicted) / (1 + predicted) + _LAST_DIGITS:  # at most the smaller one overlaps
            yield "dsc", "volume_error"
    if has("f1", "precision", "recall"):
        precision, recall = known["precision"], known["recall"]
        sought = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        if abs(known["f1"] - sought) > _LAST_DIGITS:
            yield "f1", "precision"
    # Matched objects overlap by more than half, and their mean IoU times F1 is the panoptic quality.
    low, high = (factor * known.get("f1", 0.0) + sign * _LAST_DIGITS for factor, sign in ((0.5, -1), (1.0, 1)))
    if has("f1", "panoptic_quality") and not low <= known["panoptic_quality"] <= high:
        yield "panoptic_quality", "f1"
    if has("f1", "f1_50_95") and known["f1_50_95"] > known["f1"] + _LAST_DIGITS:
        yield "f1_50_95", "f1"


def _hashes(record: Mapping[str, Any]) -> Iterator[str]:
    training, run = record["run"]["members"][0]["training"], record["run"]
    if record["config_hash"] != steady_hash(training):
        yield "config_hash is not that of the configuration in it"
    if record["plan_hash"] != steady_hash(run["plan"]):
        yield "plan_hash is not that of the plan in it"
    if record["seed"] != run["seed"]:
        yield f"it is of seed {record['seed']}, its run of seed {run['seed']}"
    if record.get(OWN_HASH, hash_of(record)) != hash_of(record):
        yield f"{OWN_HASH} is not that of what it holds"


def _costs(record: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of all starts, and each start."""
    cost, attempts = record["cost"], record["attempts"]
    seconds = sum(one["seconds"] for one in attempts)
    sought = {
        "steps": (attempts[-1].get("step"), 0.0),
        "seconds": (seconds, 0.06),
        "gpu_hours": (_sum(attempts, "gpu_seconds", 3600), 6e-6),
        "energy_wh": (_sum(attempts, "energy_wh"), 6e-3),
    }  # the second: half of the last digit that is kept
    for key, (value, slack) in sought.items():
        same = value == cost[key] if None in (value, cost[key]) else abs(value - cost[key]) <= slack + 1e-9
        if not same:
            yield f"its {key} are {cost[key]}, of its starts together {value}"
    trained = record["run"]["members"][0].get("global_step")
    if None not in (trained, cost["steps"]) and trained != cost["steps"]:
        yield f"it took {cost['steps']} steps, its network {trained}"
    # At least half of all epochs took as long as the median one.
    per_step = cost.get("seconds_per_step")
    if per_step and per_step * cost["steps"] / 2 > seconds + _UNCOUNTED * len(attempts):
        yield f"{cost['steps']} steps of {per_step} s do not fit into its {cost['seconds']} s"


def _sum(attempts: Sequence[Mapping[str, Any]], key: str, unit: float = 1.0) -> float | None:
    known = [one[key] for one in attempts if one.get(key) is not None]
    return sum(known) / unit if len(known) == len(attempts) else None


_CHECKS = (_rows, _scores, _hashes, _costs)
