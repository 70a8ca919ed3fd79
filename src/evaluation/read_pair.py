"""Read a prediction and its reference, if the two can be compared at all."""

from __future__ import annotations

import numpy as np

from umamba.evaluation.pairs import Pair
from umamba.raw.grids import geometry_faults, grid_difference
from umamba.raw.origins import origin_faults
from umamba.raw.readers import Geometry, read_geometry, read_label


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
