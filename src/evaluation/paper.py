"""Protocol `paper`: U-Mamba's own evaluation scripts (arXiv 2401.04722), their faults included.

Only for comparing with the paper's tables. Where a script would crash the score is NaN here, with a word in the
docstring. Three variants: `abdomen` (FLARE 2022's script), `endoscopy`, and `cells` (NeurIPS 2022's).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from umamba.evaluation.instances import match_instances
from umamba.evaluation.surface import surface_distances
from umamba.raw.cropping import nonzero_box
from umamba.raw.organs import ABDOMEN_TOLERANCES, organ_of

CROPPED_ORGANS = (5, 6, 10)  # aorta, inferior vena cava, esophagus: scored on the reference's slices only
ENDOSCOPY_TOLERANCE = 2.0  # px
DECIMALS = 4  # abdomen and cells are rounded per case, before any mean
WHOLE_IMAGE_PIXELS = 25_000_000  # larger images of cells are cut into tiles
TILE = 2000  # px
FRAME = 2  # px: instances that touch the outer frame of an image or tile are removed


def score_abdomen(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], labels: Mapping[str, int]
) -> list[dict[str, Any]]:
    """DSC and NSD of the 13 organs, rounded to 4 decimals.

    Both empty score 1. Aorta, vena cava and esophagus lose everything outside the reference's slices and its last
    slice; an organ in one slice is left with nothing: NaN (the script's NSD crashes there).

    Args:
        reference: (Z, Y, X) whole numbers.
        prediction: The same shape.
        spacing: (z, y, x) in mm.
        labels: The organs' names -> 1 to 13, in the order of `ABDOMEN_TOLERANCES`.
    """
    rows = []
    for (name, label), tolerance in zip(labels.items(), ABDOMEN_TOLERANCES.values(), strict=True):
        ref, pred = reference == label, prediction == label
        if not ref.any():
            dsc = nsd = float(not pred.any())
        else:
            if label in CROPPED_ORGANS:
                slices = np.flatnonzero(ref.any(axis=(1, 2)))
                ref, pred = ref[slices[0] : slices[-1]], pred[slices[0] : slices[-1]]
            ref, pred = _crop(ref, pred)
            dsc = round(_dice(ref, pred), DECIMALS)
            nsd = round(surface_distances(ref, pred, spacing).surface_dice(tolerance), DECIMALS)
        rows.append({"class": name, "label": label, "dsc": dsc, "nsd": nsd, "nsd_tolerance": tolerance})
    return rows


def abdomen_labels(labels: Mapping[str, int]) -> dict[str, int]:
    """The labels in the paper's order, if they are its 13 organs (else ValueError)."""
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


def score_endoscopy(reference: np.ndarray, prediction: np.ndarray, labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """DSC and NSD of the instruments in one image.

    Classes in neither map are left out (NaN), and so is the smallest value present, which the script takes for the
    background even where it is an instrument. NSD takes the image for a volume of one slice, in which every
    foreground pixel is surface. An image without any label makes the script fail; here all its scores are NaN.

    Args:
        reference: (Y, X) whole numbers.
        prediction: The same shape.
        labels: The instruments' names -> values.
    """
    counted = np.union1d(reference, prediction)[1:]
    rows = []
    for name, label in labels.items():
        dsc = nsd = math.nan
        if label in counted:
            ref, pred = _crop(reference == label, prediction == label)
            dsc = _dice(ref, pred)
            nsd = surface_distances(ref[None], pred[None], (1, 1, 1)).surface_dice(ENDOSCOPY_TOLERANCE)
        rows.append({"class": name, "label": label, "dsc": dsc, "nsd": nsd, "nsd_tolerance": ENDOSCOPY_TOLERANCE})
    return rows


def score_cells(reference: np.ndarray, prediction: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall and F1 at IoU 0.5, rounded to 4 decimals; 0 if nothing is found, even in an empty image.

    Instances at the outer frame are removed from both maps. Images of 25 Mpx and more are cut into tiles of 2000 px,
    each with a frame of its own. Where nothing is predicted no instance counts as missed.

    Args:
        reference: (Y, X) instance map.
        prediction: (Y, X) instance map.
    """
    found, invented, missed = 0, 0, 0
    for ref, pred in _tiles(reference, prediction):
        matching = match_instances(_remove_frame(ref), _remove_frame(pred))
        predicted = matching.true_positives + matching.false_positives
        if predicted:
            found += matching.true_positives
            invented += matching.false_positives
            missed += matching.false_negatives
    precision = found / (found + invented) if found else 0.0
    recall = found / (found + missed) if found else 0.0
    f1 = 2 * precision * recall / (precision + recall) if found else 0.0
    return [
        {
            "class": "instances",
            "f1": round(f1, DECIMALS),
            "precision": round(precision, DECIMALS),
            "recall": round(recall, DECIMALS),
            "true_positives": found,
            "false_positives": invented,
            "false_negatives": missed,
        }
    ]


def _dice(ref: np.ndarray, pred: np.ndarray) -> float:
    total = np.count_nonzero(ref) + np.count_nonzero(pred)
    return 2 * np.count_nonzero(ref & pred) / total if total else math.nan


def _crop(ref: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks cut to their common box; this changes no score, only the time it takes."""
    either = ref | pred
    if not either.any():  # perhaps of no slices at all
        return ref, pred
    window = tuple(slice(start, stop) for start, stop in nonzero_box(either[None]))
    return ref[window], pred[window]


def _tiles(reference: np.ndarray, prediction: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    if reference.shape != prediction.shape:
        raise ValueError(f"The predicted instances have shape {prediction.shape}, the reference {reference.shape}.")
    if reference.size < WHOLE_IMAGE_PIXELS:
        return [(reference, prediction)]
    padding = [(0, -size % TILE) for size in reference.shape]
    reference, prediction = np.pad(reference, padding), np.pad(prediction, padding)
    corners = [(y, x) for y in range(0, reference.shape[0], TILE) for x in range(0, reference.shape[1], TILE)]
    boxes = [(slice(y, y + TILE), slice(x, x + TILE)) for y, x in corners]
    return [(reference[box], prediction[box]) for box in boxes]


def _remove_frame(instances: np.ndarray) -> np.ndarray:
    # By value, as the script does: skimage's clear_border goes by connected parts, and would keep the rest of a cell.
    frame = np.ones(instances.shape, dtype=bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return np.where(np.isin(instances, np.unique(instances[frame])), 0, instances)
