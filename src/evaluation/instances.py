"""Counting instances that were found: matching by IoU, F1 and panoptic quality.

Matching follows StarDist (and the NeurIPS 2022 cell challenge, which copied it): the assignment that has most pairs
with IoU >= threshold and, among those, the highest IoU in sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import skimage.metrics
import skimage.segmentation
from scipy.optimize import linear_sum_assignment

F1_THRESHOLDS = tuple(np.arange(50, 100, 5) / 100)  # 0.5:0.05:0.95, as in COCO


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Instances found, invented and missed at one IoU threshold.

    Attributes:
        true_positives: Pairs with IoU >= threshold.
        false_positives: Predicted instances without partner.
        false_negatives: Reference instances without partner.
        iou_sum: Sum of the IoU over the pairs.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    iou_sum: float = 0.0

    @property
    def precision(self) -> float:
        """Share of the predicted instances that are right; 0 if none is, NaN if both images are empty."""
        return self._ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the reference instances that were found; 0 if none is, NaN if both images are empty."""
        return self._ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN if both images are empty."""
        return self._ratio(2 * self.true_positives, self._weight)

    @property
    def panoptic_quality(self) -> float:
        """Sum of IoU / (TP + FP / 2 + FN / 2) (Kirillov et al., CVPR 2019, eq. 1); NaN if both images are empty."""
        return self._ratio(2 * self.iou_sum, self._weight)

    @property
    def _weight(self) -> int:
        return 2 * self.true_positives + self.false_positives + self.false_negatives

    def _ratio(self, part: float, whole: int) -> float:
        if self._weight == 0:
            return math.nan
        return part / whole if whole else 0.0


def match_instances(reference: np.ndarray, prediction: np.ndarray, threshold: float = 0.5) -> Matching:
    """Match two instance maps.

    Args:
        reference: Instance map, any shape and integer dtype; 0 is background, any other number one instance.
        prediction: Instance map of the same shape, of integers too.
        threshold: Smallest IoU of a pair, in (0, 1].

    Returns:
        What was found, invented and missed.

    Raises:
        ValueError: Shapes differ, a value is negative, or the threshold is outside (0, 1].
    """
    return match_at_thresholds(reference, prediction, (threshold,))[0]


def match_at_thresholds(
    reference: np.ndarray, prediction: np.ndarray, thresholds: tuple[float, ...] = F1_THRESHOLDS
) -> list[Matching]:
    """`match_instances` at several thresholds, counting the overlaps once.

    Args:
        reference: Instance map, as of `match_instances`: any shape, integers.
        prediction: Instance map of the same shape, of integers too.
        thresholds: Smallest IoU of a pair, each in (0, 1].

    Returns:
        One matching for each threshold, in their order.

    Raises:
        ValueError: Shapes differ, a value is negative, or a threshold is outside (0, 1].
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"The predicted instances have shape {prediction.shape}, the reference {reference.shape}.")
    if any(not 0 < t <= 1 for t in thresholds):
        raise ValueError(f"IoU thresholds must be in (0, 1], got {thresholds}.")
    rows, columns, iou, num_reference, num_prediction = _overlapping_pairs(reference, prediction)
    matchings = []
    for threshold in thresholds:
        close = iou >= threshold
        count, iou_sum = _best_assignment(rows[close], columns[close], iou[close])
        matchings.append(
            Matching(
                true_positives=count,
                false_positives=num_prediction - count,
                false_negatives=num_reference - count,
                iou_sum=iou_sum,
            )
        )
    return matchings


def _overlapping_pairs(
    reference: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Pairs of instances that touch: reference index, prediction index, IoU; then the number of instances of each."""
    if min(reference.min(initial=0), prediction.min(initial=0)) < 0:
        raise ValueError("Instance maps must not hold negative values; 0 is the background.")
    if max(reference.max(initial=0), prediction.max(initial=0)) > reference.size:  # the table below has max + 1 rows
        reference, prediction = (skimage.segmentation.relabel_sequential(x)[0] for x in (reference, prediction))
    table = skimage.metrics.contingency_table(reference, prediction, sparse_type="array").tocoo()
    size_reference, size_prediction = table.sum(axis=1), table.sum(axis=0)
    rows, columns, shared = table.row, table.col, table.data
    touching = (rows > 0) & (columns > 0) & (shared > 0)
    rows, columns, shared = rows[touching], columns[touching], shared[touching]
    iou = shared / (size_reference[rows] + size_prediction[columns] - shared)
    return rows, columns, iou, int(np.count_nonzero(size_reference[1:])), int(np.count_nonzero(size_prediction[1:]))


def _best_assignment(rows: np.ndarray, columns: np.ndarray, iou: np.ndarray) -> tuple[int, float]:
    """Number and IoU sum of the best one-to-one choice among the candidate pairs.

    Above an IoU of 0.5 an instance has at most one candidate, so nearly all pairs are settled without a search; the
    rest (ties at exactly 0.5, or lower thresholds) goes through a linear assignment with StarDist's cost.
    """
    if len(rows) == 0:
        return 0, 0.0
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    count, iou_sum = int(alone.sum()), float(iou[alone].sum())
    if not alone.all():
        row_ids, row = np.unique(rows[~alone], return_inverse=True)
        column_ids, column = np.unique(columns[~alone], return_inverse=True)
        scores = np.zeros((len(row_ids), len(column_ids)))
        scores[row, column] = iou[~alone]
        cost = -(scores > 0).astype(float) - scores / (2 * min(scores.shape))
        chosen = scores[linear_sum_assignment(cost)]
        count += int((chosen > 0).sum())
        iou_sum += float(chosen.sum())
    return count, iou_sum
