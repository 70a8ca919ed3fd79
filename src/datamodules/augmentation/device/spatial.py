"""Rotation, scaling and mirroring for batches on a device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umamba.datamodules.augmentation.device.packing import Packer, Unpacker
from umamba.datamodules.augmentation.device.resampling import (
    POLE,
    cells_of,
    coordinates,
    cubic_coefficients,
    cubic_image,
    linear_image,
    linear_label,
    numbers,
    outside_of,
    prefilter,
)
from umamba.datamodules.augmentation.device.stage import MOST_ELEMENTS, Batch, Stage
from umamba.datamodules.augmentation.resampling import centre_crop
from umamba.datamodules.augmentation.spatial import RandomMirror, RandomRotationScaling


class RotationScaling(Stage[RandomRotationScaling]):
    """Resamples the large blocks into the batch. The other samples come as patches already."""

    def draw(self, channels: int, dims: int) -> np.ndarray | None:
        return self.transform.draw()

    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        samples = [sample for sample, matrix in enumerate(drawn) if matrix is not None]
        if not samples:
            return None
        matrices = np.stack([drawn[sample] for sample in samples])
        size = np.asarray(patch_size[-matrices.shape[1] :])
        # To it half the extent of what was read comes, which `apply` knows
        return packer.indices(samples), packer.numbers(matrices), packer.numbers(matrices @ ((size - 1) / 2))

    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        assert batch.large_image is not None and batch.large_label is not None  # read where a matrix is drawn
        samples, matrix, shift = unpack(packed[0]), unpack.exactly(packed[1]), unpack.exactly(packed[2])
        transform, size = self.transform, batch.image.shape[2:]
        image, label = batch.large_image, batch.large_label[:, None]  # (S, C, *block), (S, 1, *block)
        if transform.in_plane:  # slices neither move nor mix: as channels they share the coordinates
            slices = (size[0], *image.shape[3:])
            image = centre_crop(image.flatten(0, 1), slices, transform.image_padding).reshape(
                len(image), -1, *slices[1:]
            )
            label = centre_crop(label[:, 0], slices, transform.label_padding)
            size = size[1:]
        block = image.shape[2:]
        offset = numbers(tuple(n - 1 for n in block), image.device) / 2 - shift
        if transform.order == 3:
            image = cubic_coefficients(image, [prefilter(n, image.device) for n in block])
        new_image = image.new_empty(*image.shape[:2], *size)
        new_label = label.new_empty(*label.shape[:2], *size)
        weight = 2 ** len(size) * (image.shape[1] + label.shape[1] * 2 ** len(size) + len(size))
        for part, rows in _pieces(len(image), size, weight):
            where = coordinates(matrix[part], offset[part], (rows.stop - rows.start, *size[1:]), rows.start)
            self._resample(image[part], label[part], where, new_image[part, :, rows], new_label[part, :, rows])
        batch.image.index_copy_(0, samples, new_image.view(len(image), *batch.image.shape[1:]))
        batch.label.index_copy_(0, samples, new_label.view(len(image), *batch.label.shape[1:]))

    def launch(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        from umamba.datamodules.augmentation.device.kernels import volumes as kernels
        from umamba.datamodules.augmentation.device.kernels.run import over, run

        assert batch.large_image is not None and batch.large_label is not None  # read where a matrix is drawn
        transform, index, size = self.transform, batch.index, [*batch.image.shape[2:]]
        image, label, planes = batch.large_image, batch.large_label, 1
        count, channels, *block = image.shape
        if transform.in_plane:
            if block[0] != size[0]:
                slices = (size[0], *block[1:])
                image = centre_crop(image.flatten(0, 1), slices, transform.image_padding).contiguous()
                label = centre_crop(label, slices, transform.label_padding).contiguous()
            planes, block, size = size[0], block[1:], size[1:]
        if transform.order == 3:
            image = self._coefficients(image, block, index)
        inner, outer = ((1, 1, 1)[len(sizes) :] + tuple(sizes) for sizes in (block, size))
        tensors = (
            image, label, unpack.pointer(packed[0]), unpack.pointer(packed[1]), unpack.pointer(packed[2]),
            batch.image, batch.label,
        )  # fmt: skip
        numbers = (float(transform.image_padding), channels, planes, *inner, *outer, int(transform.label_padding))
        grid = over(planes * math.prod(size), count, kernels.TURNED)
        run(kernels.turn, index, grid, tensors, numbers, (len(size), transform.order, kernels.TURNED))

    def _coefficients(self, image: Tensor, axes: Sequence[int], index: int) -> Tensor:
        """Spline coefficients along the last axes, in the memory of the image or beside it."""
        from umamba.datamodules.augmentation.device.kernels import volumes as kernels
        from umamba.datamodules.augmentation.device.kernels.run import BLOCK, over, run

        voxels, beside = image[0, 0].numel(), torch.empty_like(image)
        grid = over(voxels, image.shape[:2].numel())
        for axis, n in enumerate(axes):
            numbers = (voxels, n, math.prod(axes[axis + 1 :]))
            constants = (POLE, kernels.REACH, n <= kernels.REACH, BLOCK)
            run(kernels.spline_filter, index, grid, (image, beside), numbers, constants)
            image, beside = beside, image
        return image

    def _resample(self, image: Tensor, label: Tensor, where: Tensor, new_image: Tensor, new_label: Tensor) -> None:
        transform = self.transform
        outside = outside_of(where, image.shape[2:], cut=transform.order == 3)[:, None]
        cell, t = cells_of(where, image.shape[2:])
        if transform.order == 3:
            new_image.copy_(cubic_image(image, cell, t).masked_fill_(outside, transform.image_padding))
        else:
            new_image.copy_(linear_image(image, where, transform.image_padding))
        padding = int(transform.label_padding)
        new_label.copy_(linear_label(label, cell, t, padding).masked_fill_(outside, padding))


class Mirror(Stage[RandomMirror]):
    """All axes of all samples in one indexing."""

    def draw(self, channels: int, dims: int) -> list[int] | None:
        return [
            axis for axis in self.transform.draw() if axis < dims
        ] or None  # a 2D subject has a third axis of size 1

    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        if not any(drawn):
            return None
        sources = []
        for axis, n in enumerate(patch_size):
            forward = np.arange(n)
            sources.append(packer.indices(np.stack([forward[::-1] if axis in (d or ()) else forward for d in drawn])))
        return packer.indices(np.arange(len(drawn))), sources

    def launch(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        from umamba.datamodules.augmentation.device.kernels import volumes as kernels
        from umamba.datamodules.augmentation.device.kernels.run import BLOCK, over, run

        image, label, (samples, channels, *patch) = batch.image, batch.label, batch.image.shape
        sources = [unpack.pointer(slot) for slot in packed[1]]
        if len(patch) == 2:
            sources, patch = [None, *sources], [1, *patch]
        batch.image, batch.label = torch.empty_like(image), torch.empty_like(label)
        grid = over(math.prod(patch), samples)
        tensors = image, label, *sources, batch.image, batch.label
        run(kernels.mirror, batch.index, grid, tensors, (channels, *patch), (len(packed[1]), BLOCK))

    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        dims = len(packed[1])
        sample = unpack(packed[0]).view(-1, *(1,) * dims)
        index = [unpack(slot) for slot in packed[1]]
        index = [i.view(len(i), *(i.shape[1] if a == axis else 1 for a in range(dims))) for axis, i in enumerate(index)]
        channel = torch.arange(batch.image.shape[1], device=sample.device).view(-1, *(1,) * dims)
        batch.image = batch.image[sample[:, None], channel, *(i[:, None] for i in index)]
        batch.label = batch.label[sample, *index]


def settle(batch: Batch, masked_channels: Sequence[int]) -> None:
    """Labels outside of the image become 0, as do the masked channels there; by a kernel."""
    from umamba.datamodules.augmentation.device.kernels import volumes as kernels
    from umamba.datamodules.augmentation.device.kernels.run import BLOCK, over, run

    samples, channels = batch.image.shape[:2]
    voxels = batch.label[0].numel()
    masked = sum(1 << channel for channel in masked_channels)
    numbers = (channels, voxels, masked)
    run(kernels.settle, batch.index, over(voxels, samples), (batch.image, batch.label), numbers, (BLOCK,))


def _pieces(samples: int, size: Sequence[int], weight: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a result (S, *size), as slices of S and of the first axis, with bounded temporary tensors.

    Args:
        samples: S.
        size: Of each.
        weight: Elements of the largest temporary tensor for each voxel.
    """
    one_row = weight * int(np.prod(size[1:]))
    rows = min(size[0], max(1, MOST_ELEMENTS // one_row))
    together = max(1, MOST_ELEMENTS // (one_row * size[0]))
    for first in range(0, samples, together):
        for start in range(0, size[0], rows):
            yield slice(first, min(samples, first + together)), slice(start, min(size[0], start + rows))
