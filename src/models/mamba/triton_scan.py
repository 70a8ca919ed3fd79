"""The selective scan in Triton: chunk sizes, buffers and launches around the kernels of the forward and backward files.

Takes float32, bfloat16 or float16 tensors on one CUDA device; the state is float32. Memory beyond inputs and outputs
is one state per chunk. Offsets are 64-bit from the chunk on, so tensors may exceed 2^31 elements.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from .gluon_chunks import adjoint_ends, replay
from .gluon_gradients import gradients
from .launch import Launch, cdiv, next_power_of_2
from .triton_carry import carry

WARPS_PER_PROCESSOR = 8  # resident programs of `gradients`, by its registers
HISTORY = 4  # tokens whose states `gradients` keeps in registers, at d_state 16
LONGEST_CHUNK = 256  # tokens
PROGRAMS = 8192  # of a pass over the chunks, below which chunks are made shorter
SHORT = 128  # tokens that one chunk, in one launch, is faster for
LAUNCHES_KEPT = 1024  # of shapes and strides; a process sees a handful
LANES = 32  # channels a program of `gradients`
REGISTERS = 255  # a thread of `gradients`


class Tiling(NamedTuple):
    """How a scan is cut: tokens a chunk, chunks, channels a program."""

    tokens: int
    chunks: int
    block: int


def tile(batch: int, length: int, channels: int) -> Tiling:
    """Chunks as long as possible (fewer carries) while thousands of programs remain; one for a short sequence."""
    tokens = LONGEST_CHUNK
    while tokens > 32 and batch * cdiv(channels, 32) * cdiv(length, tokens) < PROGRAMS:
        tokens //= 2
    if length <= max(2 * tokens, SHORT):
        tokens = max(16, next_power_of_2(length))
    return Tiling(tokens, cdiv(length, tokens), 64 if channels > 32 else 32)


def state_shape(batch: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """Shape of the chunk states that the forward pass keeps for the backward pass."""
    chunks = tile(batch, length, channels).chunks
    return (batch, chunks, states, channels) if chunks > 1 else (0,)


Strides = tuple[tuple[int, int], ...]


def _rows(t: Tensor | None) -> Tensor | None:
    return t if t is None or t.stride(-1) == 1 else t.contiguous()


def _strides(*tensors: Tensor | None) -> Strides:
    """Strides over batch and tokens."""
    return tuple([(0, 0) if t is None else t.stride()[:2] for t in tensors])


def _flat(strides: Strides) -> list[int]:
    return [number for pair in strides for number in pair]


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _padded(states: int) -> int:
    return next_power_of_2(max(states, 4))


def _padded_rank(rank: int) -> int:
    return next_power_of_2(max(rank, 1))


def _unrolled(states: int) -> int:
    """Tokens worked on at a time, by the registers their states take."""
    return max(1, min(4, 64 // _padded(states)))


def _join(batch: int, chunks: int, channels: int, states: int, reverse: bool) -> Launch:
    """From what chunks end with when started at zero to the true start of each."""
    rows = min(256, next_power_of_2(chunks))
    block = 2048 // rows if rows > 64 else 32
    grid = (cdiv(states * channels, block), batch)
    return Launch(carry, grid, (channels, chunks), (states, reverse, rows, block), num_warps=4)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _forward_launches(
    shape: tuple[int, int, int], states: int, rank: int, softplus: bool, strides: Strides, cut: Tiling
) -> tuple[Launch | None, Launch | None, Launch]:
    """Replay for the chunks' ends, their join, replay for the output; the last alone for a single chunk."""
    batch, length, channels = shape

    def replay_launch(output: bool) -> Launch:
        grid = (batch * cut.chunks * cdiv(channels, cut.block),)
        numbers = (length, channels, cut.chunks, *_flat(strides), cut.tokens)
        sizes = (states, _padded(states), rank, _padded_rank(rank))
        return Launch(replay, grid, numbers, (*sizes, softplus, output, cut.block, _unrolled(states)), num_warps=1)

    if cut.chunks == 1:
        return None, None, replay_launch(True)
    return replay_launch(False), _join(batch, cut.chunks, channels, states, reverse=False), replay_launch(True)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    weight: Tensor | None = None,
    out: Tensor | None = None,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the forward pass.

    Args:
        u, delta, A, B, C, skip, z, bias, softplus: as `reference.reference_scan`; A, skip, bias in float32.
        weight: (d_inner, rank) float32; then delta is (batch, L, rank) and delta @ weight.T is formed inside the
            kernels.
        out: where to write, (batch, L, d_inner); may be u.
        tiling: overrides `tile`.

    Returns:
        out, and the state before each chunk for `scan_backward` (empty for a single chunk).
    """
    u, delta, B, C, z = (_rows(t) for t in (u, delta, B, C, z))
    batch, length, channels = u.shape
    states, rank = A.shape[1], 0 if weight is None else weight.shape[1]
    cut = tiling or tile(batch, length, channels)
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device) if out is None else out
    strides = _strides(u, delta, B, C, z, out)
    find_ends, join, write = _forward_launches(u.shape, states, rank, softplus, strides, cut)
    inputs = (u, delta, A, B, C, skip, z, weight, bias)
    if find_ends is None or join is None:
        write(*inputs, None, None, None, out)
        return out, torch.empty(0, device=u.device)
    ends = torch.empty(batch, cut.chunks, states, channels, device=u.device)
    totals = torch.empty(batch, cut.chunks, channels, device=u.device)
    find_ends(*inputs, None, ends, totals, out)
    starts = torch.empty_like(ends)
    join(ends, totals, A, starts)
    write(*inputs, starts, None, None, out)
    return out, starts


class Gradients(NamedTuple):
    """What `scan_backward` returns; `small` is (batch, L, rank + 2 d_state) float32: gradients of delta (if rank), B
    and C.
    """

    u: Tensor
    delta: Tensor | None
    A: Tensor
    small: Tensor
    skip: Tensor
    z: Tensor | None
    bias: Tensor
    weight: Tensor


class _BackwardLaunches(NamedTuple):
    """The passes over the chunks' ends and their join (None for a single chunk), and that for the gradients with its
    groups of channel blocks, resident programs, and float32 scratch numbers a program and group.
    """

    find_ends: Launch | None
    join: Launch | None
    write: Launch
    groups: int
    programs: int
    scratch: int


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _backward_launches(
    shape: tuple[int, int, int],
    states: int,
    rank: int,
    softplus: bool,
    inputs: Strides,
    outputs: Strides,
    cut: Tiling,
    asynchronous: bool,
    device: torch.device,
) -> _BackwardLaunches:
    """`inputs`: strides of grad, u, delta, B, C, z; `outputs`: of the gradients of u, delta, z, and of y;
    `asynchronous`: the inputs' elements have the 4 bytes that asynchronous copies need.
    """
    batch, length, channels = shape
    sizes = (states, _padded(states), rank, _padded_rank(rank))
    find_ends = join = None
    if cut.chunks > 1:
        grad, _, delta, _, C, z = inputs
        find_ends = Launch(
            adjoint_ends,
            (batch * cut.chunks * cdiv(channels, cut.block),),
            (length, channels, cut.chunks, *grad, *delta, *C, *z, cut.tokens),
            (*sizes, softplus, cut.block, _unrolled(states)),
            num_warps=1,
        )
        join = _join(batch, cut.chunks, channels, states, reverse=True)
    history = min(HISTORY, _unrolled(states))
    blocks, items = cdiv(channels, LANES), batch * cut.chunks
    resident = _processors(device) * WARPS_PER_PROCESSOR
    groups = max(1, min(blocks, resident // items))
    programs = min(items, max(1, resident // groups))
    scratch = cdiv(cut.tokens, history) * _padded(states) * LANES
    *grads, y = outputs
    row = 2 * states + rank
    small = (batch * length * row, length * row, row)
    write = Launch(
        gradients,
        (programs, groups),
        (length, channels, items, cut.chunks, *_flat(inputs), *_flat(tuple(grads)), *small, *y, scratch, cut.tokens),
        (*sizes, softplus, history, LANES, asynchronous),
        num_warps=1,
        maxnreg=REGISTERS,
    )
    return _BackwardLaunches(find_ends, join, write, groups, programs, scratch)


def scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    starts: Tensor,
    weight: Tensor | None = None,
    in_place: bool = False,
    tiling: Tiling | None = None,
) -> Gradients:
    """Launch the backward pass; arguments as `scan_forward`, `grad` that of its output and `starts` what it returned.

    With `in_place`, the gradients of u, delta and z overwrite these tensors, and `grad` receives the output of the
    scan.
    """
    grad, u, delta, B, C, z = (_rows(t) for t in (grad, u, delta, B, C, z))
    batch, length, channels = u.shape
    device, states, rank = u.device, A.shape[1], 0 if weight is None else weight.shape[1]
    cut = tiling or tile(batch, length, channels)

    def room(t: Tensor | None) -> Tensor | None:
        return t if in_place or t is None else torch.empty(u.shape, dtype=t.dtype, device=device)

    grad_u, grad_delta, grad_z = room(u), None if rank else room(delta), room(z)
    y = grad if in_place else None
    asynchronous = all(t is None or t.dtype == torch.float32 for t in (grad, u, delta, B, C, z))
    launches = _backward_launches(
        u.shape, states, rank, softplus, _strides(grad, u, delta, B, C, z), _strides(grad_u, grad_delta, grad_z, y),
        cut, asynchronous, device,
    )  # fmt: skip
    adjoints = None
    if launches.find_ends is not None and launches.join is not None:
        ends = torch.empty_like(starts)
        totals = torch.empty(batch, cut.chunks, channels, device=device)
        launches.find_ends(grad, delta, A, C, z, weight, bias, ends, totals)
        adjoints = torch.empty_like(starts)
        launches.join(ends, totals, A, adjoints)
        del ends, totals
    scratch = torch.empty(launches.programs * launches.groups, launches.scratch, device=device)
    small = torch.empty(launches.groups, batch, length, rank + 2 * states, device=device)
    partial = torch.empty(launches.programs, 2 + states + rank, channels, device=device)
    launches.write(
        grad, u, delta, A, B, C, skip, z, weight, bias, None if adjoints is None else starts, adjoints, scratch,
        grad_u, grad_delta, grad_z, small, y, partial,
    )  # fmt: skip
    sums = partial.sum(0)
    return Gradients(
        u=grad_u,
        delta=grad_delta,
        A=sums[2 : 2 + states].t(),
        small=small[0] if launches.groups == 1 else small.sum(0),
        skip=sums[0],
        z=grad_z,
        bias=sums[1],
        weight=sums[2 + states :].t(),
    )
