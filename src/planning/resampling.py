"""nnU-Net's resampling of images and label maps, as separable linear operators.

nnU-Net calls skimage's resize: a spline of order 3 (images) or 1 (labels one by one, logits) with half-pixel centres
and edge padding, clipped to the input's range; across thick slices it takes the nearest slice. A tensor-product spline
is one matrix per axis, so the same values come from three matrix products in float32, slice by slice, instead of one
64-tap gather per voxel over a float64 copy of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse

from umamba.planning.splines import source_positions, spline_weights
from umamba.planning.topology import ANISOTROPY

_SPARSE_FROM = 768  # edge from which banded matrices pay off against dense ones
_NEGLIGIBLE = 1e-9  # spline weights below this vanish in float32
_SLAB = 1 << 20  # target voxels of a label map at a time: bounds the memory that boundaries take
_COLUMNS = 1 << 18  # columns per product along z, 1 MiB per row of a matrix


def separate_axis(current: Sequence[float], new: Sequence[float]) -> int | None:
    """The axis to resample on its own, by nearest neighbour: the single coarsest one of an anisotropic spacing.

    The current spacing decides if it is anisotropic, else the new one does. Two equally coarse axes are not separated.
    """
    for spacing in (current, new):
        if max(spacing) / min(spacing) > ANISOTROPY:
            coarsest = [axis for axis, value in enumerate(spacing) if max(spacing) / value == 1]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_image(
    volume: np.ndarray, shape: Sequence[int], current: Sequence[float], new: Sequence[float]
) -> np.ndarray:
    """Resample one channel by splines of order 3.

    Args:
        volume: (Z, Y, X) float32.
        shape: Target shape.
        current: Spacing of the volume, mm.
        new: Spacing after, mm; it decides only whether an axis is separate.

    Returns:
        float32 of the target shape; the volume itself if it has that shape.
    """
    shape = tuple(int(size) for size in shape)
    if volume.shape == shape:
        return volume
    axis = separate_axis(current, new)
    if axis is None:
        return _resample_volume(volume, shape)
    sizes = [i for i in range(3) if i != axis]
    rows, columns = (spline_matrix(volume.shape[i], shape[i]) for i in sizes)

    def resize(plane: np.ndarray) -> np.ndarray:
        resized = _resize_slice(plane, rows, columns)
        return np.clip(resized, plane.min(), plane.max(), out=resized)

    return _nearest_along(axis, volume, shape, resize)


def resample_label(
    label: np.ndarray, shape: Sequence[int], current: Sequence[float], new: Sequence[float]
) -> np.ndarray:
    """Resample a label map: per voxel the label whose linearly interpolated mask is largest, ties to the nearest one.

    Arguments as of `resample_image`; the label itself if it has the shape.
    """
    shape = tuple(int(size) for size in shape)
    if label.shape == shape:
        return label
    axis = separate_axis(current, new)
    if axis is None:
        return _resize_label(label, shape)
    in_plane = tuple(size for i, size in enumerate(shape) if i != axis)
    return _nearest_along(axis, label, shape, lambda plane: _resize_label(plane, in_plane))


def _nearest_along(
    axis: int, volume: np.ndarray, shape: Sequence[int], resize: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Slices across an axis resized one by one, and from slice to slice the nearest: (Z, Y, X) -> `shape`."""
    moved = np.moveaxis(volume, axis, 0)
    target = np.moveaxis(np.empty(shape, dtype=volume.dtype), axis, 0)
    nearest = nearest_index(moved.shape[0], target.shape[0])
    for source in np.unique(nearest):
        target[nearest == source] = resize(moved[source])
    return np.moveaxis(target, 0, axis)


def nearest_index(size_in: int, size_out: int) -> np.ndarray:
    """Nearest source voxel of each target voxel, ties upwards."""
    return np.clip(np.floor(source_positions(size_in, size_out) + 0.5), 0, size_in - 1).astype(np.intp)


@lru_cache(maxsize=16)
def spline_matrix(size_in: int, size_out: int) -> np.ndarray | sparse.csr_array:
    """`spline_weights` of order 3 in float32, kept for the next slice or case; sparse for long axes."""
    matrix = spline_weights(size_in, size_out, 3)
    if size_in < _SPARSE_FROM:
        return matrix.astype(np.float32)
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    return sparse.csr_array(matrix.astype(np.float32))


def _resize_slice(
    image: np.ndarray, rows: np.ndarray | sparse.csr_array, columns: np.ndarray | sparse.csr_array
) -> np.ndarray:
    """Resize (Y, X) along both axes."""
    return np.ascontiguousarray((rows @ image) @ columns.T)


def _resample_volume(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """All three axes by splines: in plane slice by slice, then along z in blocks of columns."""
    low, high = volume.min(), volume.max()
    if volume.shape[1:] == shape[1:]:
        inplane = volume
    else:
        rows, columns = (spline_matrix(volume.shape[i], shape[i]) for i in (1, 2))
        inplane = np.empty((volume.shape[0], *shape[1:]), dtype=np.float32)
        for source, target in zip(volume, inplane, strict=True):
            target[:] = _resize_slice(source, rows, columns)
    if volume.shape[0] == shape[0]:
        result = inplane
    else:
        along = spline_matrix(volume.shape[0], shape[0])
        flat = inplane.reshape(volume.shape[0], -1)
        result = np.empty((shape[0], flat.shape[1]), dtype=np.float32)
        for start in range(0, flat.shape[1], _COLUMNS):
            block = slice(start, start + _COLUMNS)
            result[:, block] = along @ flat[:, block]
        result = result.reshape(shape)
    return np.clip(result, low, high, out=result)


def _resize_label(label: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Linear one-hot resampling of a 2D or 3D label map, a slab of the first axis at a time."""
    axes = [Neighbours.of(size_in, size_out) for size_in, size_out in zip(label.shape, shape, strict=True)]
    result = np.empty(shape, dtype=label.dtype)
    step = max(1, _SLAB // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        result[part] = _resize_slab(label, [axes[0].part(part), *axes[1:]])
    return result


@dataclass(frozen=True)
class Neighbours:
    """Along one axis, for each target voxel: the source voxels below and above, the upper's weight, the nearest."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, size_in: int, size_out: int) -> Neighbours:
        # Beyond the border both neighbours are the border voxel; their weights still round as scipy's do.
        position = source_positions(size_in, size_out)
        low = np.floor(position).astype(np.intp)
        return cls(
            lower=np.clip(low, 0, size_in - 1),
            upper=np.clip(low + 1, 0, size_in - 1),
            weight=position - low,
            nearest=nearest_index(size_in, size_out),
        )

    def part(self, part: slice) -> Neighbours:
        return Neighbours(self.lower[part], self.upper[part], self.weight[part], self.nearest[part])


def _resize_slab(label: np.ndarray, axes: list[Neighbours]) -> np.ndarray:
    """Where all source voxels around a target voxel agree the answer is theirs; masks are interpolated elsewhere only.

    In float64 and scipy's order of operations, because ties are decided by exact equality.
    """
    result = label[np.ix_(*(axis.nearest for axis in axes))]
    smallest = largest = label
    for i, axis in enumerate(axes):
        smallest = np.minimum(np.take(smallest, axis.lower, i), np.take(smallest, axis.upper, i))
        largest = np.maximum(np.take(largest, axis.lower, i), np.take(largest, axis.upper, i))
    boundary = np.nonzero(smallest != largest)
    if not boundary[0].size:
        return result
    values, weights = [], []
    for corner in np.ndindex((2,) * label.ndim):
        index, weight = [], np.ones(boundary[0].size)
        for axis, where, above in zip(axes, boundary, corner, strict=True):
            index.append((axis.upper if above else axis.lower)[where])
            below = 1 - axis.weight[where]
            # The upper weight as scipy takes it: what the lower one leaves of 1.
            weight = weight * (1 - below if above else below)
        values.append(label[tuple(index)])
        weights.append(weight)
    result[boundary] = largest_share(values, weights, preferred=result[boundary])
    return result


def largest_share(
    labels: Sequence[np.ndarray], weights: Sequence[np.ndarray], preferred: np.ndarray | None = None
) -> np.ndarray:
    """Per voxel the label with the largest sum of weights.

    Args:
        labels: For each corner of a voxel's cell the labels (M,) there.
        weights: For each corner the weights (M,) of its labels, not negative.
        preferred: Labels (M,) that win ties; None, or where they do not tie, leaves those to the lowest label.
    """
    candidates: np.ndarray | Sequence[np.ndarray] = np.unique(np.stack(labels))
    if len(candidates) > len(labels):
        candidates = labels
    best = np.full(labels[0].shape, -1, dtype=weights[0].dtype)
    winner = labels[0].copy()
    for label in candidates:
        share = _share(label, labels, weights)
        winner = np.where((share > best) | ((share == best) & (label < winner)), label, winner)
        best = np.maximum(best, share)
    if preferred is not None:
        winner = np.where(_share(preferred, labels, weights) == best, preferred, winner)
    return winner


def _share(label: Any, labels: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    # One corner after the other: the same terms in another order would tie otherwise.
    share = np.zeros_like(weights[0])
    for value, weight in zip(labels, weights, strict=True):
        share += np.where(value == label, weight, weight.dtype.type(0))
    return share
