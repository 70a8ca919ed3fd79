"""Affine resampling about the centre, of images by splines and of label maps by linear label indicators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage as ndi
import torch
from torch.nn.functional import affine_grid, grid_sample

from umamba.planning.resampling import largest_share


def centre_crop(data: torch.Tensor, size: Sequence[int], padding: float) -> torch.Tensor:
    """Crop the last axes to `size` about the centre, padding where the data are smaller.

    Args:
        data: Tensor (C, *spatial).
        size: One number per spatial axis.
        padding: Value outside of the data.

    Returns:
        Tensor (C, *size); a view of the data where no axis is padded.
    """
    if data.shape[1:] == tuple(size):
        return data
    for axis, wanted in enumerate(size, start=1):
        start = (data.shape[axis] - wanted) // 2
        if start > 0:
            data = data.narrow(axis, start, wanted)
        elif data.shape[axis] < wanted:
            padded = data.new_full((*data.shape[:axis], wanted, *data.shape[axis + 1 :]), padding)
            padded.narrow(axis, -start, data.shape[axis]).copy_(data)
            data = padded
        else:
            data = data.narrow(axis, 0, wanted)
    return data


def affine_image(
    image: torch.Tensor, matrix: np.ndarray, size: Sequence[int], padding: float, *, order: int
) -> torch.Tensor:
    """Resample about the centre: the result at offset v from its centre is the image at offset `matrix` v.

    Order 3 is scipy's spline with prefilter, padding wherever the offset leaves the outermost voxels' centres; order 1
    is torch's linear `grid_sample`, which blends with the padding. Each is the faster of the two for its order.

    Args:
        image: Tensor (C, *spatial), 2 or 3 spatial axes.
        matrix: (d, d), in voxels.
        size: Spatial shape of the result.
        padding: Value outside of the image.
        order: 1 or 3.

    Returns:
        float32 tensor (C, *size).
    """
    spatial = np.asarray(image.shape[1:])
    if order == 1:
        relative = matrix * np.asarray(size) / spatial[:, None]  # offsets in halves of the extent
        theta = np.concatenate([np.flip(relative), np.zeros((len(size), 1))], axis=1)  # torch orders (x, y[, z])
        grid = affine_grid(torch.from_numpy(theta)[None].float(), [1, 1, *size], align_corners=False)
        shifted = (image.float() - padding)[None]
        return grid_sample(shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0] + padding
    result = np.empty((image.shape[0], *size), dtype=np.float32)
    offset = (spatial - 1) / 2 - matrix @ ((np.asarray(size) - 1) / 2)
    for channel, target in zip(image.numpy(), result, strict=True):
        ndi.affine_transform(
            channel, matrix, offset, output_shape=tuple(size), output=target, order=3, mode="constant", cval=padding
        )
    return torch.from_numpy(result)


def affine_label(
    label: torch.Tensor, matrix: np.ndarray, size: Sequence[int], padding: int, *, cut: bool
) -> torch.Tensor:
    """Resample label maps as `affine_image` does an image.

    Each label's indicator is interpolated linearly and the largest wins, ties going to the smallest label. Where all
    corners of a cell have one label, which is nearly everywhere, no weight is computed.

    Args:
        label: Integer tensor (C, *spatial); channels, or slices, share the coordinates.
        matrix: (d, d), in voxels.
        size: Spatial shape of the result.
        padding: Label outside of the map.
        cut: Pad wherever the offset leaves the outermost voxels' centres (as order 3) instead of letting the padding
            compete with the labels over the last half voxel (as order 1).

    Returns:
        Tensor (C, *size) of the label's type.
    """
    dims, channels = label.ndim - 1, label.shape[0]
    padded = np.pad(label.numpy(), [(0, 0)] + [(1, 1)] * dims, constant_values=padding)
    bounds = padded.shape[1:]
    coordinates = _coordinates(matrix, size, bounds)
    outside = np.zeros(tuple(size), dtype=bool)
    for coordinate, bound in zip(coordinates, bounds, strict=True):
        low, high = (1, bound - 2) if cut else (0, bound - 1)
        outside |= (coordinate < low) | (coordinate > high)
        np.clip(coordinate, 0, bound - 1, out=coordinate)
    corner = [np.minimum(c.astype(np.intp), bound - 2) for c, bound in zip(coordinates, bounds, strict=True)]
    smallest, largest = padded, padded  # over the 2^d corners of each cell
    for axis in range(1, dims + 1):
        first, second = _without_last(axis, dims + 1), _without_first(axis, dims + 1)
        smallest = np.minimum(smallest[first], smallest[second])
        largest = np.maximum(largest[first], largest[second])
    cell = np.ravel_multi_index(corner, smallest.shape[1:]).ravel()
    result = smallest.reshape(channels, -1).take(cell, axis=1)  # (C, prod(size))
    is_mixed = (smallest != largest).reshape(channels, -1).take(cell, axis=1)
    channel, voxel = (is_mixed & ~outside.ravel()).nonzero()
    if len(voxel):
        base = [b.ravel()[voxel] for b in corner]
        fractions = [(c.ravel()[voxel] - b).astype(np.float32) for c, b in zip(coordinates, base, strict=True)]
        result[channel, voxel] = largest_share(*_linear_shares(padded, channel, base, fractions))
    result[:, outside.ravel()] = padding
    return torch.from_numpy(result.reshape(channels, *size))


def _coordinates(matrix: np.ndarray, size: Sequence[int], bounds: Sequence[int]) -> list[np.ndarray]:
    """Per axis of the input, where every voxel of the result comes from, in voxels; arrays (*size)."""
    offset = (np.asarray(bounds) - 1) / 2 - matrix @ ((np.asarray(size) - 1) / 2)
    axes = np.ogrid[tuple(slice(0, n) for n in size)]
    return [sum(row[j] * axes[j] for j in range(len(size))) + start for row, start in zip(matrix, offset, strict=True)]


def _linear_shares(
    padded: np.ndarray, channel: np.ndarray, base: list[np.ndarray], fractions: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The labels (M,) at the corners of M cells, and their linear weights."""
    labels, weights = [], []
    for steps in np.ndindex(*(2,) * len(base)):
        labels.append(padded[(channel, *(b + s for b, s in zip(base, steps, strict=True)))])
        weights.append(np.prod([f if s else 1 - f for f, s in zip(fractions, steps, strict=True)], axis=0))
    return labels, weights


def _without_last(axis: int, dims: int) -> tuple[slice, ...]:
    return tuple(slice(0, -1) if a == axis else slice(None) for a in range(dims))


def _without_first(axis: int, dims: int) -> tuple[slice, ...]:
    return tuple(slice(1, None) if a == axis else slice(None) for a in range(dims))
