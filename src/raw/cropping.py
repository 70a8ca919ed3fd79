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
    box = nonzero_box(image)
    window = tuple(slice(start, stop) for start, stop in box)
    cropped_image = image[(slice(None), *window)]
    mask = cropped_image[0] != 0
    for channel in cropped_image[1:]:
        mask |= channel != 0
    outside = _outside(mask)
    if label is None:
        cropped = np.where(outside, np.int8(OUTSIDE), np.int8(0))
    else:
        cropped = label[window].copy()
        cropped[outside & (cropped == 0)] = OUTSIDE
    return cropped_image, cropped, box


def nonzero_box(image: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The bounding box of voxels that are non-zero in any channel.

    Where the image is non-zero at its border, as a CT is, next to nothing of it is read.

    Args:
        image: (C, Z, Y, X).

    Returns:
        (start, stop) per axis; the whole image if it has no non-zero voxel.
    """
    inside, box = image, []
    for axis in range(1, image.ndim):
        start, stop = 0, image.shape[axis]
        if not all(np.take(inside, face, axis=axis).any() for face in (0, -1)):
            used = np.flatnonzero(inside.any(axis=tuple(other for other in range(image.ndim) if other != axis)))
            if not used.size:
                return tuple((0, size) for size in image.shape[1:])
            start, stop = int(used[0]), int(used[-1]) + 1
        box.append((start, stop))
        inside = inside[(*[slice(None)] * axis, slice(start, stop))]
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
