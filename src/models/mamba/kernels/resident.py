"""How many programs of a kernel a device runs at a time, by its multiprocessors and what each of them has."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

WARP = 32  # threads
REGISTER_UNIT = 8  # registers of a thread are handed out in eights
RESERVED = 1024  # bytes of shared memory that each program takes besides its own (compute capability 8.0 and later)

GRADIENTS_REGISTERS = 255  # a thread, as many as there may be
GRADIENTS_SHARED = 11 * 1024  # bytes a program at d_state 16 at most


class Device(NamedTuple):
    """What a CUDA device has; all but the first for each of its multiprocessors."""

    multiprocessors: int
    registers: int  # of 32 bits
    shared_memory: int  # bytes
    threads: int

    def programs(self, warps: int, registers: int, shared_memory: int) -> int:
        """Programs that run at a time, of so many warps, registers a thread and bytes of shared memory."""
        threads = warps * WARP
        each = (
            self.registers // (threads * -(-registers // REGISTER_UNIT) * REGISTER_UNIT),
            self.shared_memory // (shared_memory + RESERVED),
            self.threads // threads,
        )
        return self.multiprocessors * max(1, min(each))


# An H200, for tensors that are on no CUDA device: a meta tensor has shapes all the same
NOMINAL = Device(multiprocessors=132, registers=65536, shared_memory=228 * 1024, threads=2048)


@functools.cache
def device_of_index(index: int) -> Device:
    """The CUDA device with this index; `NOMINAL` for -1, which torch gives tensors elsewhere, and without CUDA."""
    if index < 0 or not torch.cuda.is_available():
        return NOMINAL
    found = torch.cuda.get_device_properties(index)
    return Device(
        multiprocessors=found.multi_processor_count,
        registers=getattr(found, "regs_per_multiprocessor", NOMINAL.registers),  # no type checker knows it
        shared_memory=found.shared_memory_per_multiprocessor,
        threads=found.max_threads_per_multi_processor,
    )


@functools.cache
def backward_programs(index: int) -> int:
    """Programs of the scan's `gradients`, one warp each, on the device with this index."""
    return device_of_index(index).programs(1, GRADIENTS_REGISTERS, GRADIENTS_SHARED)
