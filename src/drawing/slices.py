"""A slice of a case as a picture: which one, how bright, and turned as radiologists look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from umamba.raw.readers import Geometry

_WINDOW = (0.5, 99.5)  # percentiles of the slice that become black and white
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # where an axis of SimpleITK's world (LPS) begins and ends

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def fullest_slice(reference: np.ndarray, predictions: Sequence[np.ndarray]) -> int:
    """The slice with most reference foreground; without any, with most predicted foreground."""
    for label in (reference, *predictions):
        area = np.count_nonzero(label, axis=(1, 2))
        if area.any():
            return int(area.argmax())
    return reference.shape[0] // 2


def picture_of(channels: np.ndarray) -> np.ndarray:
    """(C, Y, X) -> (Y, X, 3) in [0, 1]: three channels as colours, otherwise the first one in grey."""
    channels = channels if len(channels) == 3 else channels[:1]
    low, high = np.percentile(channels, _WINDOW)
    scaled = np.clip((channels - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(np.broadcast_to(scaled, (3, *scaled.shape[1:])), 0, -1)


@dataclass(frozen=True, kw_only=True)
class View:
    """What is done to a slice (Y, X) before it is drawn.

    Attributes:
        transposed: Rows become columns, before anything is reversed.
        reversed: Whether the rows, and the columns, are reversed.
        sides: Letters at the left, right, top and bottom: L(eft), R(ight), A(nterior), P(osterior), S(uperior),
            I(nferior) of the patient; None where the file does not say.
    """

    transposed: bool = False
    reversed: tuple[bool, bool] = (False, False)
    sides: tuple[str, str, str, str] | None = None

    def turn(self, layer: np.ndarray) -> np.ndarray:
        """The slice (Y, X, ...) as it is drawn."""
        layer = np.swapaxes(layer, 0, 1) if self.transposed else layer
        return layer[tuple(slice(None, None, -1 if one else 1) for one in self.reversed)]

    def aspect(self, spacing: tuple[float, ...]) -> float:
        """Height of a pixel by its width, of a volume's spacing (z, y, x)."""
        rows, columns = spacing[:0:-1] if self.transposed else spacing[1:]
        return rows / columns


def view_of(geometry: Geometry) -> View:
    """How slices along a volume's first array axis are drawn; as they are where the file does not say how they lie.

    That are pictures, 2D files, and volumes whose direction and origin are what files get that are told none.

    An axial slice has anterior up and the patient's right at the left, a coronal one superior up and the right at the
    left, a sagittal one superior up and anterior at the left.
    """
    unsaid = tuple(geometry.direction) == _IDENTITY and not any(geometry.origin)
    if geometry.dimension < 3 or unsaid:
        return View()
    cosines = np.array(geometry.direction, dtype=float).reshape(3, 3)  # column k: the file's axis k (x, y, z)
    # Each axis of the file is called by the world's axis that it follows most, all three by different ones.
    world = max(permutations(range(3)), key=lambda order: sum(abs(cosines[w, k]) for k, w in enumerate(order)))
    rows, columns = world[1], world[0]
    transposed = columns > rows  # superior before anterior before left is up
    axes = (0, 1) if transposed else (1, 0)  # of the file: drawn downwards, and to the right
    wanted = [-1 if world[axes[0]] == 2 else 1, 1]  # down is inferior or posterior; right is left or posterior
    turned = [cosines[world[axis], axis] * sign < 0 for axis, sign in zip(axes, wanted, strict=True)]
    ends = [_LETTERS[world[axis]] if sign > 0 else _LETTERS[world[axis]][::-1]
            for axis, sign in zip(axes, wanted, strict=True)]  # fmt: skip
    return View(
        transposed=transposed,
        reversed=(bool(turned[0]), bool(turned[1])),
        sides=(ends[1][0], ends[1][1], ends[0][0], ends[0][1]),
    )
