"""The non-zero part of an image: its bounding box, and the mask that normalisation may keep to."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

OUTSIDE = -1  # label of voxels outside the non-zero mask


def crop_to_nonzero(
    image: np.ndarray, label: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], ...]]:
    """Crop to the bounding box of voxels that are non-zero in any channel.

    Args:
        image: (C, Z, Y, X).
        label: (Z, Y, X) of a signed type, or None.

    Returns:
        The cropped image (a view); the cropped label (a copy) with -1 where it was 0 outside the hole-filled mask, or
        without label an int8 array of 0 and -1; the box, (start, stop) per axis. An image without any non-zero voxel is
        not cropped, and is outside everywhere.
    """
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    box = _bounding_box(mask)
    window = tuple(slice(start, stop) for start, stop in box)
    outside = _outside(mask[window])
    if label is None:
        cropped = np.where(outside, np.int8(OUTSIDE), np.int8(0))
    else:
        cropped = label[window].copy()
        cropped[outside & (cropped == 0)] = OUTSIDE
    return image[(slice(None), *window)], cropped, box


def _bounding_box(mask: np.ndarray) -> tuple[tuple[int, int], ...]:
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append((int(used[0]), int(used[-1]) + 1) if used.size else (0, mask.shape[axis]))
    return tuple(box)


def _outside(mask: np.ndarray) -> np.ndarray:
    """Voxels outside the mask with its holes filled: zero voxels that touch the border through their faces.

    Filling within the bounding box is filling within the volume, because everything beyond the box is zero. A labelling
    pass takes a fixed time; growing in from the border, as scipy's binary_fill_holes does, takes one pass per voxel of
    depth.
    """
    if mask.all():
        return np.zeros(mask.shape, dtype=bool)
    regions, count = ndimage.label(~mask)
    touches = np.zeros(count + 1, dtype=bool)
    for axis in range(mask.ndim):
        for face in (0, -1):
            touches[np.take(regions, face, axis=axis).ravel()] = True
    touches[0] = False  # region 0 is the mask itself
    return touches[regions]
