"""What a transform's version for the device is: draws made in a worker, applied to a whole batch at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
import torchio as tio
from torch import Tensor

from umamba.datamodules.augmentation.device.packing import Packer, Unpacker

MOST_ELEMENTS = 1 << 26  # of a temporary tensor: 256 MiB of float32. More is done in pieces.

TransformT = TypeVar("TransformT", bound=tio.Transform)


class Batch:
    """A batch on its way through the stages.

    Attributes:
        image: (B, C, *patch) float32, contiguous.
        label: (B, *patch) int16; -1 outside of the image.
        large_image: (S, C, *block), what was read of the samples that are rotated or scaled; None if none is.
        large_label: (S, *block).
    """

    def __init__(self, image: Tensor, label: Tensor, large_image: Tensor | None, large_label: Tensor | None) -> None:
        self.image, self.label, self.large_image, self.large_label = image, label, large_image, large_label

    @property
    def index(self) -> int:
        """Of the CUDA device; -1 on a CPU."""
        return self.image.get_device()

    def channels(self) -> Tensor:
        """The image as a view (B * C, *patch): most transforms treat each channel on its own."""
        return self.image.flatten(0, 1)


class Stage(ABC, Generic[TransformT]):
    """A transform that is drawn sample by sample and applied to a batch, without waiting for the device.

    Args:
        transform: The transform, whose draws these are: with the same draws the CPU gives the same patch.
    """

    def __init__(self, transform: TransformT) -> None:
        self.transform = transform

    @abstractmethod
    def draw(self, channels: int, dims: int) -> Any:
        """Draw for one sample, of torch's CPU generator, exactly what the transform draws where it is applied.

        Args:
            channels: How many the image has.
            dims: Spatial axes of the patch.

        Returns:
            Plain values; None if nothing is changed.
        """

    @abstractmethod
    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        """Put a batch's draws together, in a worker.

        Args:
            drawn: For each sample what `draw` gave, or None.
            patch_size: Spatial shape of the batch's patches.
            packer: Takes the arrays.

        Returns:
            Plain values and slots for `apply`; None if no sample is changed.
        """

    @abstractmethod
    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        """Change a batch on its device, in torch's own operations."""

    @property
    def variant(self) -> tuple[str, Any, Any]:
        """What says which of the kernels are its own: class, order of a spline, and whether greys are inverted."""
        return type(self).__name__, getattr(self.transform, "order", None), getattr(self.transform, "invert", None)

    def launch(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        """Change a batch on a GPU by Triton kernels, where there are some for it."""
        self.apply(batch, packed, unpack)


def rows_of(drawn: Sequence[Sequence[Any] | None]) -> tuple[list[int], list[Any]]:
    """Which channels of a batch (B * C) are changed, and how: what was drawn for each channel, None for "not"."""
    rows, values = [], []
    for sample, changes in enumerate(drawn):
        for channel, change in enumerate(changes or ()):
            if change is not None:
                rows.append(sample * len(changes or ()) + channel)
                values.append(change)
    return rows, values


def slices(count: int, elements: int) -> Iterator[slice]:
    """Cut `count` things so that those of a slice have at most `MOST_ELEMENTS` together, but for one that has more."""
    step = max(1, MOST_ELEMENTS // max(1, elements))
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def axis_of(batch: Batch, axis: int) -> tuple[int, int, int]:
    """Voxels of a patch, of one of its axes, and by how many two neighbours along it lie apart."""
    patch = batch.image.shape[2:]
    return patch.numel(), patch[axis], patch[axis + 1 :].numel()


def column(values: Tensor, like: Tensor) -> Tensor:
    """A value for each entry of the first axis of `like`, ready to be broadcast over the other axes."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def along_axis(rows: Tensor, matrices: Tensor, axis: int) -> Tensor:
    """Multiply an axis of every row by a matrix.

    Args:
        rows: (R, *S).
        matrices: (R, n, S[axis]), or (1, n, S[axis]) for all.
        axis: Spatial axis, from 0.

    Returns:
        (R, *S) with n for S[axis].
    """
    shape = list(rows.shape)
    shape[axis + 1] = matrices.shape[1]
    if axis + 2 == rows.ndim:
        flat = rows.reshape(rows.shape[0], -1, rows.shape[-1])
        return torch.matmul(flat, matrices.mT).view(shape)
    before = rows.shape[1 : axis + 1].numel()
    flat = rows.reshape(rows.shape[0], before, rows.shape[axis + 1], -1)
    return torch.matmul(matrices[:, None], flat).reshape(shape)
