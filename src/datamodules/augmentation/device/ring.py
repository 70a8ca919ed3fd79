"""Memory that a loader's workers fill and a GPU copies from.

By torch's own way each batch is a new file in /dev/shm: the system clears its pages as the worker fills them, and a
thread of the main process asks the worker for the file, maps it and copies it into pinned memory, all of which keeps
the training from launching its kernels. Here workers and GPU share the same pinned memory all the time, and what is
sent is a place in it.

A place is a worker's until it is sent, and then belongs to who holds the `Place`; when that is gone, and the GPU has
copied what is there, the worker may fill it again. A worker that has no free place hands its batch over by torch's way:
nobody ever waits for a place, and no batch can be written over.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

log = logging.getLogger(__name__)

# Places of a worker besides those of the batches that it makes ahead: one for the batch that the loader has just given,
# one for the batch that the training prepares, one for a batch that the GPU still copies.
SPARE = 3
_PAGE = 4096

_numbers = itertools.count()
_rings: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()


class Place:
    """Where a batch lies in a ring.

    Args:
        ring: Number of the ring.
        index: Which of its places.
        size: Bytes of the batch.
    """

    def __init__(self, ring: int, index: int, size: int) -> None:
        self.ring, self.index, self.size = ring, index, size
        self._holder: int | None = None  # the process that it was sent to

    def fetch(self, device: torch.device) -> Tensor:
        """A copy on the device, uint8 (size,), for which the host does not wait.

        Raises:
            RuntimeError: The loader is gone, and its memory with it.
        """
        ring = _rings.get(self.ring)
        if ring is None:
            raise RuntimeError("This batch is of a loader that is gone, and its memory with it.")
        return ring.fetch(self, device)

    def __reduce__(self) -> tuple[Callable[[int, int, int], Place], tuple[int, int, int]]:
        return _received, (self.ring, self.index, self.size)

    def __del__(self) -> None:
        ring = _rings.get(self.ring) if self._holder == os.getpid() else None  # else of the worker, or of a fork
        if ring is not None:
            ring.free(self.index)


def _received(ring: int, index: int, size: int) -> Place:
    place = Place(ring, index, size)
    place._holder = os.getpid()
    return place


class Ring:
    """Places in shared memory, each for a batch; every worker has its own.

    Args:
        size: Bytes of the largest batch.
        workers: How many share it.
        ahead: Batches that each makes ahead.
    """

    def __init__(self, size: int, workers: int, ahead: int) -> None:
        self.places = ahead + SPARE  # of a worker
        self.size = whole_pages(size)
        storage = torch.UntypedStorage._new_shared(workers * self.places * self.size, device="cpu")
        self._memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        self._taken = torch.zeros(workers * self.places, dtype=torch.uint8).share_memory_()
        self._number = next(_numbers)
        self._copied: deque[tuple[torch.cuda.Event, Place]] = deque()
        self._tried_to_pin = False
        _rings[self._number] = self

    def take(self, size: int) -> tuple[Place, Tensor] | None:
        """In a worker, one of its places and the memory there, uint8 (size,).

        Returns:
            None where torch's own way is to be gone: in the main process, and if no place is free or large enough.
        """
        worker = get_worker_info()
        if worker is None or size > self.size:
            return None
        first = worker.id * self.places
        taken = self._taken[first : first + self.places].tolist()
        if 0 not in taken:
            return None
        index = first + taken.index(0)
        self._taken[index] = 1
        return Place(self._number, index, size), self._at(index, size)

    def fetch(self, place: Place, device: torch.device) -> Tensor:
        """A batch's bytes on the device, copied on the present stream, see `Place.fetch`."""
        while self._copied and self._copied[0][0].query():
            self._copied.popleft()
        if device.type == "cuda" and not self._tried_to_pin:
            self._pin(device)
        copy = torch.empty(place.size, dtype=torch.uint8, device=device)
        copy.copy_(self._at(place.index, place.size), non_blocking=True)
        if device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            self._copied.append((event, place))
        return copy

    def free(self, index: int) -> None:
        """Give a place back to its worker."""
        self._taken.numpy()[index] = 0  # in a fifth of the time that a tensor takes

    def _pin(self, device: torch.device) -> None:
        """Have the GPU copy from here without the host, if the system allows it. Workers must have been started.

        Memory that is pinned when a process is forked may be missing there.
        """
        self._tried_to_pin = True
        address, size = self._memory.data_ptr(), self._memory.nbytes
        code = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
        if not code:
            weakref.finalize(self, _unpin, self._memory, self._copied, os.getpid()).atexit = False
            return
        log.warning(
            "%.1f GiB of memory for batches could not be pinned (CUDA error %d): the host waits for the copy of each.",
            size / 2**30, code,
        )  # fmt: skip
        with contextlib.suppress(RuntimeError):  # the next launch, whatever it is, reports the error again
            torch.zeros(1, device=device)

    def _at(self, index: int, size: int) -> Tensor:
        return self._memory[index * self.size : index * self.size + size]


def whole_pages(size: int) -> int:
    """Bytes that a place of so many takes."""
    return -(-size // _PAGE) * _PAGE


def _unpin(memory: Tensor, copied: deque[tuple[torch.cuda.Event, Place]], process: int) -> None:
    if os.getpid() != process:  # of a fork
        return
    for event, _ in copied:
        event.synchronize()
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
