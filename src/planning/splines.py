"""Splines with half-pixel centres and edge padding along one axis, as skimage's resize and ndimage.zoom take them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

_PAD = 12  # voxels of edge padding before scipy's spline prefilter, as ndimage.zoom pads


def source_positions(size_in: int, size_out: int) -> np.ndarray:
    """Where the centre of each target voxel lies among the source voxels (half-pixel rule), float64.

    Written as scipy writes it, (i + 0.5) * (in / out) - 0.5: other orders of the same operations differ on ties.
    """
    return (np.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5


def spline_weights(size_in: int, size_out: int, order: int) -> np.ndarray:
    """The (size_out, size_in) float64 matrix that resizes one axis as ndimage.zoom does with mode "nearest".

    Args:
        size_in: Voxels of the axis.
        size_out: Voxels it gets.
        order: Of the spline, 1 or 3.

    Raises:
        ValueError: The order is another.
    """
    position = source_positions(size_in, size_out)
    identity = np.eye(size_in)
    if order == 1:
        position = np.clip(position, 0, size_in - 1)
        lower = np.floor(position).astype(np.intp)
        weight = (position - lower)[:, None]
        upper = np.minimum(lower + 1, size_in - 1)
        return (1 - weight) * identity[lower] + weight * identity[upper]
    if order == 3:
        coefficients = _coefficients(identity, axis=0)
        return sum(
            weight[:, None] * coefficients[index] for index, weight in zip(*_taps(size_in, size_out), strict=True)
        )
    raise ValueError(f"order = {order}: expected 1 or 3.")


def _coefficients(image: np.ndarray, axis: int) -> np.ndarray:
    """Spline coefficients of order 3 along an axis, which gets `_PAD` voxels of edge padding; float64."""
    padded = np.pad(image, [(_PAD, _PAD) if a == axis else (0, 0) for a in range(image.ndim)], mode="edge")
    return ndimage.spline_filter1d(padded, order=3, axis=axis, mode="nearest")


def _taps(size_in: int, size_out: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The four coefficients that each voxel of a resized axis is made of, and their weights; (size_out,) each."""
    position = np.clip(source_positions(size_in, size_out) + _PAD, 0, size_in + 2 * _PAD - 1)
    start = np.floor(position).astype(np.intp) - 1
    t = position - np.floor(position)
    weights = [(1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6]
    return [np.clip(start + tap, 0, size_in + 2 * _PAD - 1) for tap in range(4)], weights


def resize_plane(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image as `spline_weights` of order 3 do, along the axes whose size changes.

    For sizes that are not met again: the dense matrices would take longer to make than this takes in all.

    Args:
        image: float32 array (Y, X).
        shape: Wanted.

    Returns:
        float32 array of that shape.
    """
    axes = [axis for axis in (0, 1) if image.shape[axis] != shape[axis]]
    coefficients = image
    for axis in axes:
        coefficients = _coefficients(coefficients, axis)
    result = coefficients.astype(np.float32)
    for axis in axes:
        index, weights = (np.stack(each, axis=1).ravel() for each in _taps(image.shape[axis], shape[axis]))
        rows = np.arange(0, 4 * shape[axis] + 1, 4)
        size = (shape[axis], image.shape[axis] + 2 * _PAD)
        matrix = sparse.csr_array((weights.astype(np.float32), index, rows), shape=size)
        result = matrix @ result if axis == 0 else (matrix @ np.ascontiguousarray(result.T)).T
    return np.ascontiguousarray(result)
