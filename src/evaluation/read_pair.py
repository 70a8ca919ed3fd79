"""Read a prediction and its reference, if the two can be compared at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from umamba.evaluation.pairs import Pair
from umamba.raw.checks import SPACING_TOLERANCE
from umamba.raw.origins import ORIGIN_LIMIT, origin_shift
from umamba.raw.readers import Geometry, read_label

_TOLERANCE_MM = 1e-2  # of the origin: float32 headers of NIfTI are off by less, a shifted case by more
_TOLERANCE_COSINE = 1e-3


class GridError(ValueError):
    """A prediction does not lie on the grid of its reference."""


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read both label maps of a pair and check that they are whole and lie on one grid.

    Returns:
        Reference and prediction, (Z, Y, X) or for 2D images (Y, X), and the spacing in their axis order.

    Raises:
        FileNotFoundError, DatasetError: As `umamba.raw.readers.read_label`, naming the file; also for a NIfTI file
            that is cut off or holds NaN, which SimpleITK reads as if it were not.
        GridError: Shape, spacing, origin or direction differ.
    """
    reference, geometry = read_label(pair.reference)
    prediction, other = read_label(pair.prediction)
    # A label map that was made of the case's images lies where they do, and references that lie up to a voxel apart
    # from these are taken voxel by voxel, as in training and as the checks of the data set have said.
    together = bool(pair.images) and origin_shift(geometry, other) <= ORIGIN_LIMIT
    difference = _difference(replace(geometry, origin=other.origin) if together else geometry, other)
    if difference:
        raise GridError(
            f"{pair.prediction} does not lie on the grid of {pair.reference}: {difference}. Predict in the geometry of "
            "the original image, or resample the prediction with nearest-neighbour interpolation."
        )
    if geometry.dimension == 2:
        return reference[0], prediction[0], tuple(geometry.spacing[1:])
    return reference, prediction, tuple(geometry.spacing)


def _difference(expected: Geometry, found: Geometry) -> str | None:
    for name, relative, absolute in (
        ("dimension", 0, 0), ("shape", 0, 0), ("spacing", SPACING_TOLERANCE, 0), ("origin", 0, _TOLERANCE_MM),
        ("direction", 0, _TOLERANCE_COSINE),
    ):  # fmt: skip
        a, b = getattr(expected, name), getattr(found, name)
        if not np.allclose(b, a, rtol=relative, atol=absolute):
            return f"its {name} is {b}, the reference's {a}"
    return None
