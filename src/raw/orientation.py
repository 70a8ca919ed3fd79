"""Where the axes of an image point to: nothing here turns images, so a network must see them as in its training."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from umamba.raw.readers import Geometry, is_picture


def orientation(path: Path, geometry: Geometry) -> str | None:
    """Letters of the directions that x, y, z point to (left, posterior, superior, ...); None for pictures and 2D."""
    return None if is_picture(path) else orientation_of(geometry)


def orientation_of(geometry: Geometry) -> str | None:
    """As `orientation`, of what is no picture."""
    if geometry.dimension != 3:
        return None
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
