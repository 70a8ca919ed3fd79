"""Blur and low resolution for batches on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from umamba.datamodules.augmentation.device.packing import Packer, Unpacker
from umamba.datamodules.augmentation.device.resampling import POLE
from umamba.datamodules.augmentation.device.stage import Batch, Stage, along_axis, axis_of, column, rows_of, slices
from umamba.datamodules.augmentation.resolution import (
    RandomChannelBlur,
    RandomLowResolution,
    nearest_voxels,
    zoomed_size,
)

_REACH = 14  # voxels over which the kernel runs the filter; within the margin
_PARTS = 32  # programs that look for a row's least and largest voxel
_MARGIN = {1: 1, 3: 16}  # voxels by which a small image is continued; the filter forgets 1e-9 over them


class Blur(Stage[RandomChannelBlur]):
    """A weighted sum of shifted images along each axis in turn."""

    def draw(self, channels: int, dims: int) -> list[list[float] | None]:
        return self.transform.draw(channels, dims)

    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        rows, sigmas = rows_of(drawn)
        if not rows:
            return None
        widest = max(self.transform.radius(sigma) for widths in sigmas for sigma in widths)
        kernels = [[_gaussian(sigma, self.transform.radius(sigma), widest) for sigma in widths] for widths in sigmas]
        mode = "symmetric" if self.transform.rule == "2.1" else "reflect"  # NumPy's names of scipy's reflect and mirror
        sources = [packer.indices(_continued(n, widest, mode)) for n in patch_size]
        return packer.indices(rows), packer.numbers(kernels), sources

    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        image = batch.channels()
        rows, kernels = unpack(packed[0]), unpack(packed[1])  # (R,), (R, axes, K)
        for part in slices(len(rows), image[0].numel() * kernels.shape[-1]):
            changed = image.index_select(0, rows[part])
            for axis, slot in enumerate(packed[2]):
                continued = changed.index_select(axis + 1, unpack(slot))
                windows = continued.unfold(axis + 1, kernels.shape[-1], 1)  # (R, *patch, K)
                weights = kernels[part, axis].view(-1, *(1,) * (image.ndim - 1), kernels.shape[-1])
                changed = (windows * weights).sum(-1)
            image.index_copy_(0, rows[part], changed)

    def launch(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        from umamba.datamodules.augmentation.device.kernels import rows as kernels
        from umamba.datamodules.augmentation.device.kernels.run import BLOCK, over, run

        rows, weights, sources = packed
        chosen, table = unpack.pointer(rows), unpack.pointer(weights)
        axes = [(axis, unpack.pointer(slot)) for axis, slot in enumerate(sources)]
        for (axis, source), (first, last), image, out in _passes(batch, axes, rows.shape[0]):
            voxels, n, inner = axis_of(batch, axis)
            numbers = (voxels, n, inner, weights.shape[2], axis, len(axes))
            tensors = (image, out, chosen, table, source)
            run(kernels.blur, batch.index, over(voxels, rows.shape[0]), tensors, numbers, (first, last, BLOCK))


class LowResolution(Stage[RandomLowResolution]):
    """The nearest voxels along each axis are taken, and a matrix for each axis samples up."""

    def draw(self, channels: int, dims: int) -> list[float | None]:
        return self.transform.draw(channels, dims)

    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        rows, zooms = rows_of(drawn)
        if not rows:
            return None
        axes = []
        for axis, size in enumerate(patch_size):
            if self.transform.keeps_first_axis and axis == 0:
                continue
            sizes = [zoomed_size(size, zoom) for zoom in zooms]
            margin = _MARGIN[self.transform.order]
            longest = max(sizes) + 2 * margin
            taken = [nearest_voxels(size, n)[(np.arange(longest) - margin).clip(0, n - 1)] for n in sizes]
            found = [_taps(size, n, self.transform.order) for n in sizes]
            first, weights = (np.stack(parts) for parts in zip(*found, strict=True))
            axes.append((axis, packer.indices(taken), packer.indices(first + margin), packer.numbers(weights)))
        return packer.indices(rows), axes

    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        image = batch.channels()
        rows, axes = unpack(packed[0]), packed[1]
        for part in slices(len(rows), 4 * image[0].numel()):
            image.index_copy_(0, rows[part], self._lowered(image.index_select(0, rows[part]), axes, part, unpack))

    def _lowered(self, image: Tensor, axes: Sequence[Any], part: slice, unpack: Unpacker) -> Tensor:
        for axis, taken, *_ in axes:
            index = unpack(taken)[part]  # (R, m)
            shape = [len(image), *image.shape[1:]]
            shape[axis + 1] = index.shape[1]
            view = [1] * image.ndim
            view[0], view[axis + 1] = index.shape
            image = image.gather(axis + 1, index.view(view).expand(shape))
        low, high = torch.aminmax(image.flatten(1), dim=1)
        for axis, _, first, weights in axes:
            matrices = self._matrices(unpack(first)[part], unpack(weights)[part], image.shape[axis + 1])
            image = along_axis(image, matrices, axis)
        return image.clamp_(column(low, image), column(high, image))

    def launch(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        from umamba.datamodules.augmentation.device.kernels import rows as kernels
        from umamba.datamodules.augmentation.device.kernels.run import BLOCK, over, run

        rows, axes = packed
        order, margin, count = self.transform.order, _MARGIN[self.transform.order], rows.shape[0]
        chosen = unpack.pointer(rows)
        tables = [(axis, *(unpack.pointer(slot) for slot in slots), slots[0].shape[1]) for axis, *slots in axes]
        voxels, *shape = batch.image[0, 0].numel(), *batch.image.shape[2:]
        taken: list[Any] = [None] * 3  # of three axes, of which a plane has the last two
        sizes = [1] * (3 - len(shape)) + shape
        for axis, indices, _, _, longest in tables:
            taken[axis - len(shape)] = indices
            sizes[axis - len(shape)] = longest - 2 * margin
        extremes = batch.image.new_empty(count, 2, _PARTS)
        run(
            kernels.taken_extremes, batch.index, (_PARTS, count), (batch.image, chosen, *taken, extremes),
            (voxels, *sizes, *shape[-2:], margin, _PARTS), (taken[0] is None, len(shape), BLOCK),
        )  # fmt: skip
        for (axis, indices, begin, weights, longest), (first, last), image, out in _passes(batch, tables, count):
            numbers = (*axis_of(batch, axis), longest, _PARTS)
            tensors = (image, out, chosen, indices, begin, weights, extremes)
            constants = (order, POLE, _REACH, first, last, _PARTS, BLOCK)
            run(kernels.sample_up, batch.index, over(voxels, count), tensors, numbers, constants)

    def _matrices(self, first: Tensor, weights: Tensor, size: int) -> Tensor:
        """Of the voxels from `first` (R, n) on and their weights (R, n, taps) the matrices (R, n, size)."""
        steps = torch.arange(weights.shape[-1], device=first.device)
        prefilter = _prefilter(-(-size // 256) * 256, self.transform.order, first.device)[:size, :size]
        rows = prefilter[first[..., None] + steps]  # (R, n, taps, size)
        return (rows * weights[..., None]).sum(2)


AxisT = TypeVar("AxisT")


def _passes(
    batch: Batch, axes: Sequence[AxisT], rows: int
) -> Iterator[tuple[AxisT, tuple[bool, bool], Tensor, Tensor]]:
    """Axis by axis, whether it is the first or last, and from where to where it is worked on.

    The first pass reads rows of the batch, the last writes them; between them are `rows` ones apart.
    """
    apart = [batch.image.new_empty(rows, *batch.image.shape[2:]) for _ in range(min(2, len(axes) - 1))]
    for i, axis in enumerate(axes):
        first, last = i == 0, i == len(axes) - 1
        yield axis, (first, last), batch.image if first else apart[(i - 1) % 2], batch.image if last else apart[i % 2]


@lru_cache(maxsize=16)
def _prefilter(size: int, order: int, device: torch.device) -> Tensor:
    """(size, size): coefficients of the spline through an endless image. Any first part of it is one as well."""
    if order == 1:
        return torch.eye(size, device=device)
    steps = torch.arange(size, device=device, dtype=torch.float64)
    return (np.sqrt(3.0) * torch.pow(POLE, (steps[:, None] - steps).abs())).float()


def _gaussian(sigma: float, radius: int, widest: int) -> np.ndarray:
    """Weights (2 * widest + 1,) of a Gaussian that is cut off at its radius, sum 1."""
    steps = np.arange(-widest, widest + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2) if radius else (steps == 0).astype(float)
    weights[np.abs(steps) > radius] = 0
    return weights / weights.sum()


@lru_cache(maxsize=64)
def _continued(size: int, by: int, mode: Any) -> np.ndarray:
    """Which voxel stands at each place from `-by` to `size + by`."""
    return np.pad(np.arange(size), by, mode=mode)


@lru_cache(maxsize=1024)
def _taps(size: int, fewer: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `size` voxels the first of the small image's (n,) that it is made of, and the weights (n, taps)."""
    position = (np.arange(size) + 0.5) * (fewer / size) - 0.5  # half-pixel rule
    floor = np.floor(position)
    t = position - floor
    if order == 1:
        return floor.astype(np.int64), np.stack([1 - t, t], axis=1)
    weights = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
    return floor.astype(np.int64) - 1, np.stack(weights, axis=1) / 6
