"""How the Triton scan cuts a sequence, and what of it the backward pass needs. Imports neither torch nor Triton.

What a device runs at a time, `resident` programs of the kernel `gradients`, is given (see `resident.py`); everything
else here counts in the time that one of its programs takes for a token, which cancels the speed of the device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

LANES = 32  # channels a program of the backward pass
CHUNKS = range(16, 257, 4)  # tokens a chunk may have
ALONE = 512  # tokens that may be one chunk
FEW = 32  # chunks that the kernels join themselves, without a launch for it
MANY = 2  # rounds of resident programs of a forward pass from which on two channels a lane are faster

# Parts of the cost of a tiling, see `cost`; in tokens of the backward pass, fitted to times on an H200
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


def cost(tokens: int, batch: int, length: int, channels: int, resident: int) -> float:
    """What a pass forward and backward takes with chunks of T = `tokens`, in tokens of a backward program.

    With K = ceil(length / T) chunks, B = ceil(channels / LANES) blocks of channels and P = `resident` programs,

        backward = r (T + ENTRY)                r = ceil(batch K / p) ceil(B / g), see `spread` for p and g
        forward  = FORWARD max(T batch K B / P, SEQUENCE T)
        cost     = backward + forward + LAUNCH + (JOIN K if K <= FEW else LAUNCH)   for K > 1
        cost     = SINGLE (backward + forward)                                      for K = 1

    Programs of the backward pass run in r rounds of at most P, each of which begins (ENTRY) and walks over a chunk.
    Those of the forward pass are smaller and fill the device better, so there the work counts, but never less than one
    program takes alone. To find where chunks begin takes a launch each way, and another one to join them, unless they
    are so few that the kernels do it.
    """
    chunks, blocks = cdiv(length, tokens), cdiv(channels, LANES)
    items = batch * chunks
    groups, programs = spread(blocks, items, resident)
    backward = cdiv(items, programs) * cdiv(blocks, groups) * (tokens + ENTRY)
    forward = FORWARD * max(tokens * items * blocks / resident, SEQUENCE * tokens)
    if chunks == 1:
        return SINGLE * (backward + forward)
    return backward + forward + LAUNCH + (JOIN * chunks if chunks <= FEW else LAUNCH)


def spread(blocks: int, items: int, resident: int) -> tuple[int, int]:
    """How many programs share the blocks of channels, and how many the items (chunks of all batch entries)."""
    groups = max(1, min(blocks, resident // items))
    groups = cdiv(blocks, cdiv(blocks, groups))  # as few as finish as early
    return groups, min(items, max(1, resident // groups))


@functools.lru_cache(maxsize=1024)  # of shapes; a process sees a handful
def tile(batch: int, length: int, channels: int, resident: int) -> Tiling:
    """The chunks of least `cost`, the longest of equals; `resident` programs of the backward pass run at a time."""
    choices = [*reversed(CHUNKS), *([cdiv(length, 16) * 16] if length <= ALONE else [])]
    tokens = min(choices, key=lambda tokens: cost(tokens, batch, length, channels, resident))
    chunks = cdiv(length, tokens)
    return Tiling(tokens, chunks, 64 if batch * chunks * cdiv(channels, 64) >= MANY * resident else 32)


def kept_sizes(cut: Tiling, batch: int, channels: int, states: int) -> tuple[int, int]:
    """Float32 numbers that the forward pass keeps for the backward pass, one after the other: a state a chunk (before
    it; behind it if the chunks are few), and the sum of the step sizes over each chunk.
    """
    each = batch * cut.chunks * channels if cut.chunks > 1 else 0
    return padded(each * states), each


def kept_size(batch: int, length: int, channels: int, states: int, resident: int) -> int:
    """Float32 numbers between forward and backward in all; sizes that a compiler left open become fixed."""
    batch, length, channels = int(batch), int(length), int(channels)
    return sum(kept_sizes(tile(batch, length, channels, resident), batch, channels, states))


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
