"""Voxel counts of two label maps and the scores that need nothing else: Dice and volume error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How often each label of one label map meets each of another one of its shape.

    What is asked for is a class, by its label, or a region, by all of its labels.

    Attributes:
        table: (K, K) int64, voxels with label i in the reference and j in the prediction.
    """

    table: np.ndarray

    def reference(self, label: int | Sequence[int]) -> int:
        """Voxels of a class or region in the reference.

        Args:
            label: The class's label, or all labels of the region.

        Returns:
            Their number, 0 or more.
        """
        return int(self.table[_some(label)].sum())

    def prediction(self, label: int | Sequence[int]) -> int:
        """Voxels of a class or region in the prediction; argument and result as of `reference`."""
        return int(self.table[:, _some(label)].sum())

    def dice(self, label: int | Sequence[int]) -> float:
        """Dice similarity coefficient of a class or region, 2 |A and B| / (|A| + |B|).

        Args:
            label: As of `reference`.

        Returns:
            0 to 1; NaN if both label maps lack the class.
        """
        total = self.reference(label) + self.prediction(label)
        both = int(self.table[np.ix_(_some(label), _some(label))].sum())
        return 2 * both / total if total else math.nan

    def volume_error(self, label: int | Sequence[int]) -> float:
        """Relative volume error (V_prediction - V_reference) / V_reference of a class or region.

        Args:
            label: As of `reference`.

        Returns:
            -1 or more, positive where too much was predicted; NaN if the reference lacks the class.
        """
        volume = self.reference(label)
        return (self.prediction(label) - volume) / volume if volume else math.nan


def count_overlap(reference: np.ndarray, prediction: np.ndarray, num_labels: int) -> Overlap:
    """Count labels and their intersections in one pass.

    Args:
        reference: Label map, any shape and integer dtype, values in [0, num_labels).
        prediction: The same for the prediction, same shape.
        num_labels: K, background included.

    Raises:
        ValueError: The shapes differ, or a label map holds a value outside [0, num_labels).
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"The prediction has shape {prediction.shape}, its reference {reference.shape}.")
    table = np.zeros(num_labels * num_labels, dtype=np.int64)
    # Slice by slice: bincount casts to int64, which for a whole CT of 512 x 512 x 200 would be 400 MB at once.
    for ref, pred in zip(np.atleast_2d(reference), np.atleast_2d(prediction), strict=True):
        for what, part in (("reference", ref), ("prediction", pred)):
            low, high = int(part.min(initial=0)), int(part.max(initial=0))
            if low < 0 or high >= num_labels:
                raise ValueError(
                    f"The {what} holds label {low if low < 0 else high}; expected labels 0 to {num_labels - 1}."
                )
        pair = ref.astype(np.intp).ravel()
        pair *= num_labels
        pair += pred.ravel()
        table += np.bincount(pair, minlength=table.size)
    return Overlap(table=table.reshape(num_labels, num_labels))


def _some(label: int | Sequence[int]) -> list[int]:
    return [label] if isinstance(label, int) else [*label]
