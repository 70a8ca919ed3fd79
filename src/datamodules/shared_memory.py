"""Whether the batches that loaders have in store fit into /dev/shm, through which workers hand them over."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from umamba.datamodules.augmentation.device.ring import SPARE, Ring, whole_pages
from umamba.machine import free_memory
from umamba.planning.configuration import Configuration

FOLDER = Path("/dev/shm")
PREFETCH = 3  # batches that each worker makes ahead
_RING_SHARE = 0.25  # of /dev/shm and of the free memory; a training has two loaders, and half is left for others

log = logging.getLogger(__name__)


def batch_bytes(configuration: Configuration, channels: int, enlarged: Sequence[int] = ()) -> int:
    """Size of a batch as workers hand it over."""
    voxels = math.prod(configuration.patch_size) + (math.prod(enlarged) if enlarged else 0)
    return configuration.batch_size * voxels * (4 * channels + 2)  # float32 images, int16 labels


def validation_workers(workers: int) -> int:
    """Half of them: without augmentation a validation batch costs a fraction of a training batch.

    But two of two: where the GPU augments it costs as much, and a validation step takes a third of a training step.
    """
    return min(workers, max(2, (workers + 1) // 2))


def needed_bytes(batch_bytes: int, workers: int) -> int:
    """What training and validation loaders together may have in store, one batch more being in use."""
    return (PREFETCH * (workers + validation_workers(workers)) + 1) * batch_bytes if workers else 0


def make_ring(batch_bytes: int, workers: int, processes: int) -> Ring | None:
    """Memory that the workers of a loader share with the GPU.

    Args:
        batch_bytes: Size of the largest batch.
        workers: Of the loader.
        processes: Of a distributed run, each of which has as much.

    Returns:
        None where it would take more than its share of /dev/shm or of the free memory: batches go torch's way then, as
        where there is no such folder.
    """
    if not FOLDER.is_dir():
        return None
    places = workers * (PREFETCH + SPARE)
    needed = places * whole_pages(batch_bytes) * processes
    if needed > _RING_SHARE * min(shutil.disk_usage(FOLDER).free, free_memory()):
        log.info(
            "Batches are copied once more on their way to the GPU: memory shared with it would take %s, and %s has %s "
            "free.", _size(needed), FOLDER, _size(shutil.disk_usage(FOLDER).free),
        )  # fmt: skip
        return None
    return Ring(batch_bytes, workers, PREFETCH)


def check_shared_memory(batch_bytes: int, workers: int) -> None:
    """Refuse before a training what would end a worker in the middle of it.

    Raises:
        MemoryError: /dev/shm has too little room; where there is none such, another way is taken.
    """
    if not workers or not FOLDER.is_dir():
        return
    free, needed = shutil.disk_usage(FOLDER).free, needed_bytes(batch_bytes, workers)
    if needed <= free:
        return
    fitting = max(n for n in range(workers) if needed_bytes(batch_bytes, n) <= free)
    larger = -(-needed // 2**30)
    raise MemoryError(
        f"{FOLDER} has {_size(free)} free, but the batches that data.num_workers={workers} processes have in store "
        f"take {_size(needed)} ({_size(batch_bytes)} each). Make it larger (docker run --shm-size={larger}g, or "
        f"--ipc=host), or set data.num_workers={fitting}."
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
