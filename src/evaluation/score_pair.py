"""Score one prediction against its reference, by the protocol that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from umamba.evaluation import paper, standard
from umamba.evaluation.pairs import Pair
from umamba.evaluation.scoring import Scoring
from umamba.raw.grids import geometry_faults, grid_difference
from umamba.raw.origins import origin_faults
from umamba.raw.readers import Geometry, read_geometry, read_label

log = logging.getLogger(__name__)


def score_pair(pair: Pair, scoring: Scoring) -> list[dict[str, Any]] | str:
    """Read and score one pair.

    Returns:
        A row per class, or what is wrong with the files, naming them.
    """
    try:
        return _read_and_score(pair, scoring)
    except GridError as error:
        if not (scoring.protocol == "paper" and scoring.of_instances):
            return str(error)
        log.warning("Protocol paper: case %s dropped. %s", pair.case, error)  # as the paper's script does
        return []
    except (ValueError, OSError) as error:
        return str(error)


def _read_and_score(pair: Pair, scoring: Scoring) -> list[dict[str, Any]]:
    reference, prediction, spacing = read_pair(pair)
    if scoring.of_instances and not scoring.instance_predictions:
        _check_classes(prediction, pair, scoring)
        prediction = scoring.as_compared(prediction)
    try:
        variant, rows = _score(pair.known(reference, scoring.ignore_label), prediction, spacing, scoring)
    except ValueError as error:
        raise ValueError(f"Case {pair.case}, {pair.prediction} against {pair.reference}: {error}") from error
    return [{"protocol": variant, "case": pair.case} | row for row in rows if row["class"] not in pair.unlabelled]


def _score(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], scoring: Scoring
) -> tuple[str, list[dict]]:
    """What the protocol is called in full, and the rows."""
    labels = scoring.foreground
    if scoring.protocol == "standard":
        if scoring.of_instances:
            return "standard", standard.score_instances(reference, prediction)
        arguments = (scoring.scored, scoring.tolerances, scoring.ignore_label)
        return "standard", standard.score_semantic(reference, prediction, spacing, *arguments)
    if scoring.of_instances:
        return "paper/cells", paper.score_cells(reference, prediction)
    _check_values(reference, prediction, max(labels.values()))
    if reference.ndim == 2:
        return "paper/endoscopy", paper.score_endoscopy(reference, prediction, labels)
    return "paper/abdomen", paper.score_abdomen(reference, prediction, spacing, paper.abdomen_labels(labels))


def _check_values(reference: np.ndarray, prediction: np.ndarray, highest: int) -> None:
    """See that no label map holds a value of no class; the paper's scripts would take it for background."""
    for what, label in (("reference", reference), ("prediction", prediction)):
        for value in (int(label.min(initial=0)), int(label.max(initial=0))):
            if not 0 <= value <= highest:
                raise ValueError(f"The {what} holds label {value}; expected labels 0 to {highest}.")


def _check_classes(prediction: np.ndarray, pair: Pair, scoring: Scoring) -> None:
    highest = max(scoring.foreground.values())
    if prediction.max(initial=0) > highest or prediction.min(initial=0) < 0:
        raise ValueError(
            f"{pair.prediction} holds label {prediction.max()}; expected the classes 0 to {highest}. If it is an "
            "instance map, set instance_predictions=true."
        )


class GridError(ValueError):
    """A prediction does not lie on the grid of its reference."""


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read both label maps of a pair and check that they are whole and lie on one grid.

    Where the case's image is known the prediction must lie on its grid, and the reference as a label that is trained
    with: what a training takes voxel by voxel is scored so. Else the prediction must lie on the reference's grid.

    Returns:
        Reference and prediction, (Z, Y, X) or for 2D images (Y, X), and the spacing in their axis order.

    Raises:
        FileNotFoundError, DatasetError: As `umamba.raw.readers.read_label`, naming the file; also for a NIfTI file
            that is cut off or holds NaN, which SimpleITK reads as if it were not.
        GridError: Shape, spacing, origin or direction differ.
    """
    reference, geometry = read_label(pair.reference)
    prediction, other = read_label(pair.prediction)
    image = read_geometry(pair.images[0]) if pair.images else None
    if image is not None:
        _check_label(pair, geometry, image)
    difference = grid_difference(geometry if image is None else image, other)
    if difference:
        raise GridError(
            f"{pair.prediction} does not lie on the grid of {pair.images[0] if pair.images else pair.reference}: "
            f"{difference}. Predict in the geometry of the original image, or resample the prediction with "
            "nearest-neighbour interpolation. If the reference's header is the wrong one, give it its image's: the "
            "doctor's geometry=copy_header."
        )
    if geometry.dimension == 2:
        return reference[0], prediction[0], tuple(geometry.spacing[1:])
    return reference, prediction, tuple(geometry.spacing)


def _check_label(pair: Pair, label: Geometry, image: Geometry) -> None:
    files = (pair.images[0], pair.reference)
    faults = [message for _, message in geometry_faults(pair.reference, pair.images[0], label, image)]
    faults += [message for severity, message in origin_faults(files, (image, label)) if severity == "error"]
    if faults:
        raise GridError(" ".join(faults))
