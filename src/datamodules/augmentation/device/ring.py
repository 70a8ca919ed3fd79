"""Memory that a loader's workers fill and a GPU copies from.

By torch's own way each batch is a new file in /dev/shm, which a thread of the main process asks the worker for, maps
and copies into pinned memory: work that keeps the training from launching its kernels. Here workers and GPU share the
same pinned memory all the time, and what is sent is a place in it.
"""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

log = logging.getLogger(__name__)

# Of each worker, besides the batches that it makes ahead: one that the training has just been given, and one that the
# GPU still copies. When the loader asks for the next, the copy of the one before those is done, see `Ring.fetch`.
SPARE = 2
_PAGE = 4096

_numbers = itertools.count()
_rings: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()


class Place(NamedTuple):
    """Where a batch lies: the ring, the slot in it, its worker's count of batches, and bytes."""

    ring: int
    slot: int
    serial: int
    size: int

    def fetch(self, device: torch.device) -> Tensor:
        """A copy on the device.

        Raises:
            RuntimeError: The batch is there no more.
        """
        ring = _rings.get(self.ring)
        if ring is None:
            raise RuntimeError("This batch is of a loader that is gone, and its memory with it.")
        return ring.fetch(self, device)


class Ring:
    """Slots of shared memory, each for a batch; a worker fills its own in turn.

    Args:
        slot_size: Bytes of the largest batch.
        workers: How many share it.
        ahead: Batches that each makes ahead.
    """

    def __init__(self, slot_size: int, workers: int, ahead: int) -> None:
        self.slot_size = -(-slot_size // _PAGE) * _PAGE
        self.slots = ahead + SPARE
        count = workers * self.slots
        storage = torch.UntypedStorage._new_shared(count * self.slot_size, device="cpu")
        self._memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        self._serials = torch.zeros(count, dtype=torch.int64).share_memory_()
        self._number = next(_numbers)
        self._made = 0  # by this worker
        self._copied: tuple[Place, torch.cuda.Event | None] | None = None
        _rings[self._number] = self

    def pin(self) -> bool:
        """Have the GPU copy from here without the host; whether that is possible."""
        address, size = self._memory.data_ptr(), self._memory.nbytes
        code = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
        if code:
            log.info("%.1f GiB for batches could not be pinned (CUDA error %d).", size / 2**30, code)
            return False
        weakref.finalize(self, _unpin, address, os.getpid())
        return True

    def take(self, size: int) -> tuple[Place, Tensor] | None:
        """In a worker, the next of its slots, uint8 (size,); None in the main process, and if it is too small."""
        worker = get_worker_info()
        if worker is None or size > self.slot_size:
            return None
        slot = worker.id * self.slots + self._made % self.slots
        self._made += 1
        self._serials[slot] = self._made  # before the batch that was here is written over
        return Place(self._number, slot, self._made, size), self._at(slot, size)

    def fetch(self, place: Place, device: torch.device) -> Tensor:
        """A batch's bytes on the device, copied on the present stream.

        The copy before is waited for, which has had a step's time: the worker may write over it from now on.

        Raises:
            RuntimeError: The worker has already written over it.
        """
        self.settle()
        self._check(place)
        copy = torch.empty(place.size, dtype=torch.uint8, device=device)
        copy.copy_(self._at(place.slot, place.size), non_blocking=True)
        event = None
        if device.type == "cuda":
            event = torch.cuda.Event(blocking=True)
            event.record()
        self._copied = place, event
        return copy

    def settle(self) -> None:
        """Wait for the last copy.

        Raises:
            RuntimeError: As `fetch`.
        """
        if self._copied is not None:
            (place, done), self._copied = self._copied, None
            if done is not None:
                done.synchronize()
            self._check(place)

    def _at(self, slot: int, size: int) -> Tensor:
        return self._memory[slot * self.slot_size : slot * self.slot_size + size]

    def _check(self, place: Place) -> None:
        if int(self._serials[place.slot]) != place.serial:
            raise RuntimeError(
                f"A batch was kept while its worker made {self.slots} others, and its memory is used again. Batches "
                "of this loader must be moved to the device one after the other, as they come."
            )


def _unpin(address: int, process: int) -> None:
    if os.getpid() == process:  # not in a worker that was forked
        torch.cuda.cudart().cudaHostUnregister(address)
