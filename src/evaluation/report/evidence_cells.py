"""Cells of a benchmark's tables: a score with its interval, a difference and what its test says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report.networks import MISSING
from umamba.evaluation.report.significance import SIGNIFICANT, can_be_significant


def interval(mean: float, low: float, high: float, metric: str, *, signed: bool = False) -> str:
    """As "87.50 [86.60, 88.38]"."""
    if math.isnan(mean):
        return MISSING
    text = number(mean, metric, signed=signed)
    if math.isnan(low):
        return text
    return f"{text} [{number(low, metric, signed=signed)}, {number(high, metric, signed=signed)}]"


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """A share in points of 100, a distance as it is."""
    if math.isnan(value):
        return MISSING
    value = value if METRICS[metric].infinite else 100 * value  # what can be infinite is no share
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def difference(row: Mapping[str, Any] | None) -> str:
    """A row of `evidence_tables.contrast`: the difference, and whether it is significant or cannot be."""
    if row is None:
        return MISSING
    text = interval(row["difference"], row["low"], row["high"], row["metric"], signed=True)
    if not can_be_significant(row["cases"], row["comparisons"]):
        return f"{text} (no test)"
    return f"{text} *" if row["p_holm"] < SIGNIFICANT else text


def better_and_worse(found: Sequence[Mapping[str, Any]]) -> str:
    """On how many data sets the first is significantly better and worse, of those on which a test can tell."""
    tested = [row for row in found if can_be_significant(row["cases"], row["comparisons"])]
    sure = [row["difference"] > 0 for row in tested if row["p_holm"] < SIGNIFICANT]
    return f"{sum(sure)}, {len(sure) - sum(sure)} of {len(tested)}" if tested else "no test"
