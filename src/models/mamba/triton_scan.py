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
from .launch import cdiv, launch, next_power_of_2
from .triton_carry import carry

WARPS_PER_PROCESSOR = 8  # resident programs of `gradients`, by its registers
HISTORY = 4  # tokens whose states `gradients` keeps in registers, at d_state 16
LONGEST_CHUNK = 256  # tokens
PROGRAMS = 8192  # of a pass over the chunks, below which chunks are made shorter
LANES = 32  # channels a program of `gradients`
REGISTERS = 255  # a thread of `gradients`


class Tiling(NamedTuple):
    """How a scan is cut: tokens a chunk, chunks, channels a program."""

    tokens: int
    chunks: int
    block: int


@functools.lru_cache(maxsize=4096)
def tile(batch: int, length: int, channels: int) -> Tiling:
    """Chunks as long as possible (fewer carries) while some thousands of programs remain; one for a short sequence."""
    tokens = LONGEST_CHUNK
    while tokens > 32 and batch * cdiv(channels, 32) * cdiv(length, tokens) < PROGRAMS:
        tokens //= 2
    if length <= 2 * tokens:
        tokens = max(16, next_power_of_2(length))
    return Tiling(tokens, cdiv(length, tokens), 64 if channels > 32 else 32)


def state_shape(batch: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """Shape of the chunk states that the forward pass keeps for the backward pass."""
    chunks = tile(batch, length, channels).chunks
    return (batch, chunks, states, channels) if chunks > 1 else (0,)


def _rows(t: Tensor | None) -> Tensor | None:
    return t if t is None or t.stride(-1) == 1 else t.contiguous()


def _strides(t: Tensor | None) -> tuple[int, int]:
    return (0, 0) if t is None else (t.stride(0), t.stride(1))


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


def _carry(ends: Tensor, totals: Tensor, A: Tensor, reverse: bool) -> Tensor:
    batch, chunks, states, channels = ends.shape
    starts = torch.empty_like(ends)
    rows = min(256, next_power_of_2(chunks))
    block = 2048 // rows if rows > 64 else 32
    grid = (cdiv(states * channels, block), batch)
    launch(carry, grid, (ends, totals, A, starts), (channels, chunks), (states, reverse, rows, block), num_warps=4)
    return starts


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
        kernels. out: where to write, (batch, L, d_inner); may be u. tiling: overrides `tile`.

    Returns:
        out, and the state before each chunk for `scan_backward` (empty for a single chunk).
    """
    u, delta, B, C, z = (_rows(t) for t in (u, delta, B, C, z))
    batch, length, channels = u.shape
    states, rank = A.shape[1], 0 if weight is None else weight.shape[1]
    cut = tiling or tile(batch, length, channels)
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device) if out is None else out
    strides = [s for t in (u, delta, B, C, z, out) for s in _strides(t)]

    def run(starts: Tensor | None, ends: Tensor | None, totals: Tensor | None) -> None:
        launch(
            replay,
            (batch * cut.chunks * cdiv(channels, cut.block),),
            (u, delta, A, B, C, skip, z, weight, bias, starts, ends, totals, out),
            (length, channels, cut.chunks, *strides, cut.tokens),
            (states, _padded(states), rank, _padded_rank(rank), softplus, ends is None, cut.block, _unrolled(states)),
            num_warps=1,
        )

    starts = None
    if cut.chunks > 1:
        ends = torch.empty(batch, cut.chunks, states, channels, device=u.device)
        totals = torch.empty(batch, cut.chunks, channels, device=u.device)
        run(None, ends, totals)
        starts = _carry(ends, totals, A, reverse=False)
        del ends, totals
    run(starts, None, None)
    return out, u.new_empty(0, dtype=torch.float32) if starts is None else starts


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
    states, rank = A.shape[1], 0 if weight is None else weight.shape[1]
    cut = tiling or tile(batch, length, channels)
    many = cut.chunks > 1
    adjoints = None
    if many:
        ends = torch.empty_like(starts)
        totals = torch.empty(batch, cut.chunks, channels, device=u.device)
        launch(
            adjoint_ends,
            (batch * cut.chunks * cdiv(channels, cut.block),),
            (grad, delta, A, C, z, weight, bias, ends, totals),
            (length, channels, cut.chunks, *(s for t in (grad, delta, C, z) for s in _strides(t)), cut.tokens),
            (states, _padded(states), rank, _padded_rank(rank), softplus, cut.block, _unrolled(states)),
            num_warps=1,
        )
        adjoints = _carry(ends, totals, A, reverse=True)
        del ends, totals

    padded, history = _padded(states), min(HISTORY, _unrolled(states))
    blocks, items = cdiv(channels, LANES), batch * cut.chunks
    resident = _processors(u.device) * WARPS_PER_PROCESSOR
    groups = max(1, min(blocks, resident // items))
    programs = min(items, max(1, resident // groups))
    new = dict(device=u.device, dtype=torch.float32)
    scratch = torch.empty(programs * groups, cdiv(cut.tokens, history) * padded * LANES, **new)
    small = torch.empty(groups, batch, length, 2 * states + rank, **new)
    partial = torch.empty(programs, 2 + states + rank, channels, **new)
    grad_u = u if in_place else torch.empty_like(u, memory_format=torch.contiguous_format)
    grad_delta = (
        None if rank else (delta if in_place else torch.empty_like(delta, memory_format=torch.contiguous_format))
    )
    grad_z = None if z is None else (z if in_place else torch.empty_like(z, memory_format=torch.contiguous_format))
    y = grad if in_place else None
    strides = [s for t in (grad, u, delta, B, C, z, grad_u, grad_delta, grad_z) for s in _strides(t)]
    launch(
        gradients,
        (programs, groups),
        (
            grad, u, delta, A, B, C, skip, z, weight, bias, starts if many else None, adjoints, scratch,
            grad_u, grad_delta, grad_z, small, y, partial,
        ),
        (
            length, channels, items, cut.chunks, *strides, *small.stride()[:3], *_strides(y),
            scratch.stride(0), cut.tokens,
        ),
        (states, padded, rank, _padded_rank(rank), softplus, history, LANES),
        num_warps=1, maxnreg=REGISTERS,
    )  # fmt: skip
    sums = partial.sum(0)
    return Gradients(
        u=grad_u,
        delta=grad_delta,
        A=sums[2 : 2 + states].t(),
        small=small[0] if groups == 1 else small.sum(0),
        skip=sums[0],
        z=grad_z,
        bias=sums[1],
        weight=sums[2 + states :].t(),
    )
