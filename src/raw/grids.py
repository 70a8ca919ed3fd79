"""Whether two files lie on one grid: one rule for the doctor, preparation, training and scoring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from umamba.raw.origins import ORIGIN_TOLERANCE, origin_shift
from umamba.raw.readers import Geometry

# Headers store spacing and direction as float32, sometimes rounded again on the way: one thousandth of a voxel's edge
# and about 0.06 degrees of direction are far above that and far below any real difference.
SPACING_TOLERANCE = 1e-3
DIRECTION_TOLERANCE = 1e-3


def geometry_faults(label_path: Path, image_path: Path, label: Geometry, image: Geometry) -> Iterator[tuple[str, str]]:
    """Kind and message of each way in which a label's grid is not its image's; of origins see `origin_faults`."""
    where = f"{label_path} and {image_path}"
    if image.shape != label.shape:
        yield (
            "shape",
            f"{where} differ in shape: {label.shape} and {image.shape} (z, y, x). Resample the label to its "
            "image's grid.",
        )
        return
    if not close(image.spacing, label.spacing, SPACING_TOLERANCE):
        yield (
            "spacing",
            f"{where} differ in spacing: {label.spacing} and {image.spacing} mm (z, y, x). Correct the wrong header.",
        )
    if image.dimension == label.dimension and not close(
        image.direction, label.direction, DIRECTION_TOLERANCE, relative=False
    ):
        yield (
            "direction",
            f"{where} differ in direction: {label.direction} and {image.direction}. One of them is turned or mirrored; "
            "correct its header or resample it.",
        )


def grid_difference(expected: Geometry, found: Geometry) -> str | None:
    """In what a file's grid differs from the expected one, as far as it is more than headers round; None for nothing.

    Dimension, shape, spacing, direction, and origin beyond `umamba.raw.origins.ORIGIN_TOLERANCE`.
    """
    shift = origin_shift(expected, found)
    for name, same in (
        ("dimension", expected.dimension == found.dimension),
        ("shape", expected.shape == found.shape),
        ("spacing", close(found.spacing, expected.spacing, SPACING_TOLERANCE)),
        ("direction", close(found.direction, expected.direction, DIRECTION_TOLERANCE, relative=False)),
        ("origin", shift <= ORIGIN_TOLERANCE),
    ):
        if not same:
            away = f" ({shift:.2f} voxels away)" if name == "origin" else ""
            return f"its {name} is {getattr(found, name)}, expected {getattr(expected, name)}{away}"
    return None


def close(a: tuple[float, ...], b: tuple[float, ...], tolerance: float, *, relative: bool = True) -> bool:
    """Whether numbers differ by at most `tolerance`, or such a share of the larger."""
    return len(a) == len(b) and all(
        abs(x - y) <= tolerance * (max(abs(x), abs(y)) if relative else 1.0) for x, y in zip(a, b, strict=True)
    )
