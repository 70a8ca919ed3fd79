"""The metrics of all tables, in their order: titles, digits, which way is better, what networks are compared by.

They are computed in `umamba.evaluation.standard` and `umamba.evaluation.paper`, as columns of the names used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a column of the scores is shown.

    Attributes:
        title: Head of the column in tables for people.
        decimals: Written there.
        lower_is_better: Whether smaller values are better, as those of a distance.
        compared: The report has its intervals, spread over runs, tests, ranks and boxes.
        infinite: A class that only one of two label maps has makes it infinite: NaN in the scores, left out of means,
            and counted as ``NAME_infinite``. Two networks are compared where both have a finite value.
    """

    title: str
    decimals: int = 4
    lower_is_better: bool = False
    compared: bool = False
    infinite: bool = False


# The first one that a table has (DSC, F1) orders cases from the worst to the best and is missing only where neither
# label map has the class.
METRICS: Mapping[str, Metric] = MappingProxyType({
    "dsc": Metric(title="DSC", compared=True),
    "nsd": Metric(title="NSD", compared=True),
    "hd95": Metric(title="HD95", decimals=2, lower_is_better=True, compared=True, infinite=True),  # mm, or px
    "volume_error": Metric(title="vol. error", decimals=3),
    "abs_volume_error": Metric(title="|vol. error|", decimals=3, lower_is_better=True),
    "f1": Metric(title="F1", compared=True),
    "f1_50_95": Metric(title="F1 0.5:0.95"),
    "precision": Metric(title="precision"),
    "recall": Metric(title="recall"),
    "panoptic_quality": Metric(title="PQ"),
})  # fmt: skip
INFINITE = tuple(name for name, metric in METRICS.items() if metric.infinite)
