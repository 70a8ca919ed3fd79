"""Files of one case that lie elsewhere in space than its first: how far, and whether they can belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from umamba.raw.readers import Geometry, is_picture

ORIGIN_TOLERANCE = 0.1  # voxel edges: headers round far below that
ORIGIN_LIMIT = (
    1.001  # one, and what headers round; programs that count from corners or from centres differ by half of one
)


def origin_faults(
    paths: Sequence[Path], geometries: Sequence[Geometry]
) -> Iterator[tuple[Literal["error", "warning"], str]]:
    """Severity and message for each file whose first voxel lies elsewhere than that of the first file.

    Voxels are matched by their place in the array: up to `ORIGIN_LIMIT` that is said, beyond it is an error.
    """
    if any(is_picture(path) for path in paths):
        return
    first = geometries[0]
    for path, other in zip(paths[1:], geometries[1:], strict=True):
        shift = origin_shift(first, other)
        if shift <= ORIGIN_TOLERANCE:
            continue
        where = (
            f"{path} lies {shift:.2f} voxels away from {paths[0]} (origins {_rounded(other)} and {_rounded(first)} mm)"
        )
        if shift <= ORIGIN_LIMIT:
            yield "warning", f"{where}; it is taken voxel by voxel as if it did not."
        else:
            yield (
                "error",
                f"{where}. Resample it to that grid if the headers are right. If its voxels do belong to the others', "
                "give it their header: a label by the doctor's geometry=copy_header, a channel by SimpleITK's "
                "CopyInformation.",
            )


def origin_shift(first: Geometry, other: Geometry) -> float:
    """How far the origins lie apart, in voxel edges of the first along its axes, the largest.

    0 between 2D and 3D, and where a voxel size is none, which is a fault of its own.
    """
    if first.dimension != other.dimension or not all(size > 0 for size in first.spacing):
        return 0.0
    axes = np.reshape(first.direction, (first.dimension, first.dimension))
    steps = np.subtract(other.origin, first.origin) @ axes / first.spacing[::-1][: first.dimension]
    return float(np.abs(steps).max())


def _rounded(geometry: Geometry) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in geometry.origin)
