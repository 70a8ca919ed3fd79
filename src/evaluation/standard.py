"""Protocol `standard`: the scores of one case as Metrics Reloaded (Maier-Hein et al., Nat. Methods 2024) advises.

A class that neither label map holds has no score (NaN); one that only one of them holds scores 0. All slices count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from umamba.evaluation.instances import F1_THRESHOLDS, match_at_thresholds
from umamba.evaluation.overlap import count_overlap
from umamba.evaluation.surface import surface_distances


def score_semantic(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    labels: Mapping[str, int | Sequence[int]],
    tolerances: Mapping[str, float],
    ignore_label: int | None = None,
) -> list[dict[str, Any]]:
    """Score each class, or region, of one label map.

    Args:
        reference: (Z, Y, X) or (Y, X) whole numbers.
        prediction: The same shape.
        spacing: Size of a voxel along each axis, in mm, or 1 for pixels; the unit of NSD's tolerance and of HD95.
        labels: Class name -> value, without the background; of a region all of its values.
        tolerances: Class name -> tolerance of NSD.
        ignore_label: Voxels with this value in the reference count for nothing.

    Returns:
        One row per class: class, label (of a region "1+2+3"), dsc, nsd, hd95 (NaN where a mask is empty), volume_error
        (relative, signed) and its absolute value, nsd_tolerance, reference_voxels, prediction_voxels.

    Raises:
        ValueError: Shapes differ, or a value is neither 0, a label, nor the ignore label in the reference.
    """
    if ignore_label is not None and reference.shape == prediction.shape:
        ignored = reference == ignore_label
        reference, prediction = np.where(ignored, 0, reference), np.where(ignored, 0, prediction)
    made_of = {name: [label] if isinstance(label, int) else [*label] for name, label in labels.items()}
    highest = max(max(values) for values in made_of.values())
    overlap = count_overlap(reference, prediction, highest + 1)
    boxes_ref, boxes_pred = find_objects(reference, highest), find_objects(prediction, highest)
    rows = []
    for name, values in made_of.items():
        label = values[0] if len(values) == 1 else "+".join(map(str, values))
        row: dict[str, Any] = {"class": name, "label": label, "dsc": overlap.dice(values)}
        box = _union(boxes[value - 1] for value in values for boxes in (boxes_ref, boxes_pred))
        if box is None:
            row |= {"nsd": math.nan, "hd95": math.nan}
        else:
            surfaces = surface_distances(_mask(reference[box], values), _mask(prediction[box], values), spacing)
            hd95 = surfaces.robust_hausdorff(95)
            row["nsd"] = surfaces.surface_dice(tolerances[name])
            row["hd95"] = hd95 if math.isfinite(hd95) else math.nan
        row["volume_error"] = overlap.volume_error(values)
        row["abs_volume_error"] = abs(row["volume_error"])
        row["nsd_tolerance"] = tolerances[name]
        row["reference_voxels"] = overlap.reference(values)
        row["prediction_voxels"] = overlap.prediction(values)
        rows.append(row)
    return rows


def score_instances(reference: np.ndarray, prediction: np.ndarray) -> list[dict[str, Any]]:
    """Score one instance map.

    Args:
        reference: Instance map, 0 background, one value per instance.
        prediction: Instance map of the same shape.

    Returns:
        A single row: class "instances", f1, precision, recall and panoptic_quality at IoU 0.5, f1_50_95 (mean over
        0.5:0.05:0.95), true_positives, false_positives, false_negatives at 0.5. NaN if both maps are empty.
    """
    matchings = match_at_thresholds(reference, prediction, F1_THRESHOLDS)
    at_half = matchings[0]
    return [
        {
            "class": "instances",
            "f1": at_half.f1,
            "f1_50_95": float(np.mean([matching.f1 for matching in matchings])),
            "precision": at_half.precision,
            "recall": at_half.recall,
            "panoptic_quality": at_half.panoptic_quality,
            "true_positives": at_half.true_positives,
            "false_positives": at_half.false_positives,
            "false_negatives": at_half.false_negatives,
        }
    ]


def _mask(part: np.ndarray, values: Sequence[int]) -> np.ndarray:
    return part == values[0] if len(values) == 1 else np.isin(part, values)


def _union(boxes: Iterable[tuple[slice, ...] | None]) -> tuple[slice, ...] | None:
    """The box around some boxes, any of which may be missing."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return tuple(
        slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in zip(*found, strict=True)
    )
