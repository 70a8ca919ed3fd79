"""Which patch of which case a sample is: nnU-Net's sampling, as a pure function of (seed, sample number).

A 2D patch of a volume is a patch of one slice, (1, Y, X): drawing a class, then the slice of a random voxel of it, then
a voxel of that class in the slice is the same as drawing a voxel of the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from torch.utils.data import Sampler

DATA_PADDING = 0.0
LABEL_PADDING = -1  # "outside of the image"; never reaches the network


def is_forced(position: int, batch_size: int, oversample: float) -> bool:
    """Whether the sample at this position of the batch must be centred on foreground: the last ones of a batch are."""
    return position >= round(batch_size * (1 - oversample))


def draw_start(
    rng: np.random.Generator,
    shape: Sequence[int],
    class_locations: Mapping[int, np.ndarray],
    *,
    annotated_locations: Sequence[Any] | np.ndarray = (),
    read_size: Sequence[int],
    patch_size: Sequence[int],
    forced: bool,
) -> tuple[int, ...]:
    """Draw where the patch that is read begins; it may lie outside of the image, where it is padded.

    A random patch reaches over an edge by at most half of what rotation needs more than the final patch (all that is
    missing where the image is smaller). A forced one is centred on a random stored voxel of a random class; it may
    begin no further out, but may end anywhere. Where a data set has an ignore label, other patches are centred on a
    random annotated voxel, as is a forced one in a case without foreground.

    Args:
        rng: Source of the draws.
        shape: Shape of the case, (Z, Y, X).
        class_locations: Class -> voxels, integer array (n, 3).
        annotated_locations: Voxels that are not to be ignored, (n, 3); empty for a data set without an ignore label.
        read_size: Size of the block that is read, (Z, Y, X).
        patch_size: Size of the block after augmentation, (Z, Y, X).
        forced: Whether to centre on foreground.

    Returns:
        Index of the first voxel, (z, y, x); may be negative.
    """
    excess = [max(read - patch, read - size) for read, patch, size in zip(read_size, patch_size, shape, strict=True)]
    low = [-e // 2 for e in excess]  # floor: of an odd excess the lower and the upper side get the larger half
    high = [size + e // 2 + e % 2 - read for size, e, read in zip(shape, excess, read_size, strict=True)]
    present = [label for label, voxels in class_locations.items() if len(voxels)] if forced else []
    voxels = class_locations[present[int(rng.integers(len(present)))]] if present else annotated_locations
    if not len(voxels):
        return tuple(int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    centre = voxels[int(rng.integers(len(voxels)))]
    return tuple(max(a, int(c) - read // 2) for a, c, read in zip(low, centre, read_size, strict=True))


def read_block(array: Any, start: Sequence[int], size: Sequence[int], padding: float, dtype: DTypeLike) -> np.ndarray:
    """Read a block of an array's last axes, padded where it reaches outside; nothing else of the array is read.

    Args:
        array: Anything that is sliced like an array, (..., Z, Y, X).
        start: First voxel of the block along the last axes; may be negative.
        size: Size of the block along the last axes.
        padding: Value outside of the array.
        dtype: Type of the result.

    Returns:
        Array (..., *size).
    """
    lead = array.shape[: array.ndim - len(size)]
    spatial = array.shape[array.ndim - len(size) :]
    source = tuple(slice(max(0, a), max(0, min(n, a + s))) for a, s, n in zip(start, size, spatial, strict=True))
    everything = tuple(slice(0, n) for n in lead)
    if all(part.stop - part.start == s for part, s in zip(source, size, strict=True)):
        whole: np.ndarray = array[everything + source]
        # It will be changed in place: of an array in memory it is a copy, otherwise it has just been read
        return whole.astype(dtype, copy=isinstance(array, np.ndarray))
    block = np.full((*lead, *size), padding, dtype=dtype)
    if all(part.stop > part.start for part in source):
        target = tuple(slice(part.start - a, part.stop - a) for part, a in zip(source, start, strict=True))
        block[everything + target] = array[everything + source]
    return block


def check_shares(batch_size: int, world_size: int) -> None:
    """Raises ValueError if a batch has no sample for one of the processes of a distributed run."""
    if batch_size < world_size:
        raise ValueError(
            f"A batch of {batch_size} is too small for {world_size} processes, each of which needs a sample of it. Set "
            f"data.batch_size to {world_size} or more, or trainer.devices to {batch_size} or less."
        )


def share_of(batch_size: int, rank: int, world_size: int) -> int:
    """How many samples of each batch a process takes: every `world_size`-th, from its own number on."""
    return len(range(rank, batch_size, world_size))


class EpochSampler(Sampler[int]):
    """The sample numbers of an epoch for one process of a distributed run.

    Sample ``(epoch * num_batches + batch) * batch_size + position`` has its own random numbers, so that an epoch has
    the same batches in every run, whatever the number of workers, and after a resume. Of every batch each process
    takes every ``world_size``-th sample (`share_of` says how many), so that forced ones are spread. Lightning calls
    `set_epoch` before an epoch.

    Args:
        num_batches: Batches per epoch.
        batch_size: Samples per batch over all processes.
        rank: Number of this process, from 0 on.
        world_size: Number of processes.
        advance: Whether epochs differ; validation looks at the same samples in every epoch.
        skip_batches: Batches of the first epoch drawn that were trained on before a resume.

    Raises:
        ValueError: The batch has not a sample for each process.
    """

    def __init__(
        self,
        *,
        num_batches: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        advance: bool = True,
        skip_batches: int = 0,
    ) -> None:
        check_shares(batch_size, world_size)
        self.num_batches = num_batches
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.advance = advance
        self.skip_batches = skip_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * share_of(self.batch_size, self.rank, self.world_size)

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.num_batches if self.advance else 0
        skip, self.skip_batches = self.skip_batches, 0
        for batch in range(first + skip, first + self.num_batches):
            yield from range(batch * self.batch_size + self.rank, (batch + 1) * self.batch_size, self.world_size)
