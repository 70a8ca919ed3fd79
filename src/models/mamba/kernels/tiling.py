"""How the Triton scan cuts a sequence, and what of it the backward pass needs. Imports neither torch nor Triton."""

from __future__ import annotations

import functools
from typing import NamedTuple

LANES = 32  # channels a program of the backward pass
WARPS_PER_PROCESSOR = 8  # programs of the backward pass that run at a time, by its registers
RESIDENT = WARPS_PER_PROCESSOR * 132  # of them on an H100
CHUNKS = range(16, 257, 4)  # tokens a chunk may have
ALONE = 512  # tokens that may be one chunk
FEW = 32  # chunks that the kernels join themselves, without a launch for it
MANY = 2048  # programs of a forward pass above which two channels a lane are faster

# Parts of the cost of a tiling, fitted to times on an H200; the unit is a token of the backward pass
ENTRY = 8  # the begin of a program
LAUNCH = 24  # one more launch each way
JOIN = 0.6  # a chunk that the kernels join themselves
SINGLE = 0.75  # what is left of the time of all kernels if there is nothing to join
FORWARD = 0.35  # a token of the forward pass
SEQUENCE = 1.3  # how much longer that takes in one program that runs alone


def cdiv(a: int, b: int) -> int:
    """a / b rounded up; Triton's function of this name takes microseconds."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


class Tiling(NamedTuple):
    """How a scan is cut: tokens a chunk, chunks, channels a program."""

    tokens: int
    chunks: int
    block: int

    @property
    def few(self) -> bool:
        """Whether each program finds the start of its chunk from the ends of the others."""
        return 1 < self.chunks <= FEW


def _cost(tokens: int, batch: int, length: int, channels: int) -> float:
    """What a pass forward and backward takes."""
    chunks, blocks = cdiv(length, tokens), cdiv(channels, LANES)
    items = batch * chunks
    groups, programs = spread(blocks, items, RESIDENT)
    rounds = cdiv(items, programs) * cdiv(blocks, groups)
    forward = FORWARD * max(tokens * items * blocks / RESIDENT, SEQUENCE * tokens)
    if chunks == 1:
        return SINGLE * (rounds * (tokens + ENTRY) + forward)
    joining = LAUNCH if chunks > FEW else JOIN * chunks
    return rounds * (tokens + ENTRY) + forward + LAUNCH + joining


def spread(blocks: int, items: int, resident: int) -> tuple[int, int]:
    """How many programs share the blocks of channels, and how many the items (chunks of all batch entries)."""
    groups = max(1, min(blocks, resident // items))
    groups = cdiv(blocks, cdiv(blocks, groups))  # as few as finish as early
    return groups, min(items, max(1, resident // groups))


@functools.lru_cache(maxsize=1024)  # of shapes; a process sees a handful
def tile(batch: int, length: int, channels: int) -> Tiling:
    """Chunks that keep all programs of the device busy for the shortest time; the longest of equals."""
    choices = [*reversed(CHUNKS), *([cdiv(length, 16) * 16] if length <= ALONE else [])]
    tokens = min(choices, key=lambda tokens: _cost(tokens, batch, length, channels))
    chunks = cdiv(length, tokens)
    return Tiling(tokens, chunks, 64 if batch * chunks * cdiv(channels, 64) >= MANY else 32)


def kept_sizes(cut: Tiling, batch: int, channels: int, states: int) -> tuple[int, int]:
    """Float32 numbers that the forward pass keeps for the backward pass, one after the other: a state a chunk (before
    it; behind it if the chunks are few), and the sum of the step sizes over each chunk.
    """
    each = batch * cut.chunks * channels if cut.chunks > 1 else 0
    return padded(each * states), each


def kept_size(batch: int, length: int, channels: int, states: int) -> int:
    """Float32 numbers between forward and backward in all; sizes that a compiler left open become fixed."""
    batch, length, channels = int(batch), int(length), int(channels)
    return sum(kept_sizes(tile(batch, length, channels), batch, channels, states))


def padded(size: int) -> int:
    """Float32 numbers rounded up so that what lies behind them is aligned."""
    return cdiv(size, 64) * 64


def padded_states(states: int) -> int:
    return next_power_of_2(max(states, 4))


def constants(states: int, rank: int) -> tuple[int, int, int, int]:
    """N, N_PAD, RANK, RANK_PAD of the kernels."""
    return states, padded_states(states), rank, next_power_of_2(max(rank, 1))


def unrolled(states: int) -> int:
    """Tokens worked on at a time, by the registers their states take."""
    return max(1, min(4, 64 // padded_states(states)))
