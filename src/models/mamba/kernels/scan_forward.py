"""Forward pass of the selective scan in Triton: buffers and launches around its kernels.

Takes float32, bfloat16 or float16 tensors on one CUDA device; the state is float32. Memory beyond inputs and outputs
is one state per chunk. Offsets are 64-bit from the chunk on, so tensors may exceed 2^31 elements.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from umamba.models.mamba.kernels.chunks import replay
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Address, Description, Launch, describe
from umamba.models.mamba.kernels.reductions import carry
from umamba.models.mamba.kernels.resident import backward_programs
from umamba.models.mamba.kernels.tiling import (
    Tiling,
    cdiv,
    constants,
    kept_size,
    kept_sizes,
    next_power_of_2,
    tile,
    unrolled,
)

FLOAT = torch.float32
_Given = TypeVar("_Given", Tensor, Tensor | None)


def whole_rows(description: Description) -> bool:
    """Whether the last axis of every tensor is contiguous and matrices are altogether, as the kernels take them."""
    found = [t for t in description[2:] if t is not None]
    rows = all(stride[-1] == 1 or shape[-1] == 1 for shape, stride, _ in found)
    return rows and all(stride[0] == shape[1] or shape[0] == 1 for shape, stride, _ in found if len(shape) == 2)


def with_whole_rows(t: _Given) -> _Given:
    return t if t is None or (t.dim() == 3 and t.stride(-1) == 1) else t.contiguous()


def join_launch(description: Description, cut: Tiling, shape: torch.Size, states: int, reverse: bool) -> Launch:
    """From what chunks end with when started at zero to the true start of each: ends, totals, A, starts."""
    batch, _, channels = shape
    rows = min(256, next_power_of_2(cut.chunks))
    block = 2048 // rows if rows > 64 else 32
    grid = (cdiv(states * channels, block), batch)
    numbers, sizes = [channels, cut.chunks, int(reverse)], (states, rows, block)
    return Launch(carry, description.device, grid, [FLOAT] * 4, numbers, sizes, num_warps=4)


class _Plan(NamedTuple):
    """Launches of a forward pass (those that it has) and the sizes of `tiling.kept_sizes`."""

    find_ends: Launch | None
    join: Launch | None
    write: Launch
    states: int
    totals: int


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _plan(description: Description, softplus: bool, tiling: Tiling | None) -> _Plan | None:
    """For the inputs and the given output of `scan_forward`; None if a row is not contiguous."""
    if not whole_rows(description):
        return None
    U, DELTA, A, B, C, SKIP, Z, WEIGHT, BIAS, OUT = range(10)
    shape, (_, states) = description.shape(U), description.shape(A)
    rank = description.shape(WEIGHT)[1] if description.has(WEIGHT) else 0
    batch, length, channels = shape
    cut = tiling or tile(batch, length, channels, backward_programs(description.device))
    given = description.types(U, DELTA, A, B, C, SKIP, Z, WEIGHT, BIAS)
    fresh = not description.has(OUT)
    out_type = description.types(U if fresh else OUT)[0]
    out_strides = [length * channels, channels] if fresh else description.strides(OUT)
    numbers = [length, channels, cut.chunks, *description.strides(U, DELTA, B, C, Z), *out_strides, cut.tokens]

    def launch(buffers: list[torch.dtype | None], output: bool) -> Launch:
        grid = (batch * cut.chunks * cdiv(channels, cut.block),)
        sizes = (*constants(states, rank), softplus, output, cut.block, unrolled(states))
        types = [*given, *buffers]
        return Launch(replay, description.device, grid, types, numbers, sizes, num_warps=1)

    kept = kept_sizes(cut, batch, channels, states)
    if cut.chunks == 1:
        return _Plan(None, None, launch([None, None, None, out_type], True), *kept)
    find_ends = launch([None, FLOAT, FLOAT, None], False)
    if cut.few:
        return _Plan(find_ends, None, launch([None, FLOAT, FLOAT, out_type], True), *kept)
    join = join_launch(description, cut, shape, states, reverse=False)
    return _Plan(find_ends, join, launch([FLOAT, None, None, out_type], True), *kept)


def kept_like(u: Tensor, A: Tensor) -> Tensor:
    """In shape, what `scan_forward` returns for the backward pass; u (batch, L, any), A (channels, d_state)."""
    batch, length, channels = u.shape[0], u.shape[1], A.shape[0]
    size = kept_size(batch, length, channels, A.shape[1], backward_programs(u.get_device()))
    return u.new_empty(size, dtype=FLOAT)


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
        out, and what `scan_backward` needs of the chunks, `tiling.kept_size` float32 numbers.
    """
    description, (*inputs, _) = describe(u, delta, A, B, C, skip, z, weight, bias, out)
    plan = _plan(description, softplus, tiling)
    if plan is None:
        if out is not None and out.stride(-1) != 1:
            raise ValueError(f"The output needs contiguous rows, but its strides are {out.stride()}.")
        whole = with_whole_rows
        return scan_forward(
            whole(u), whole(delta), whole(A), whole(B), whole(C), whole(skip), whole(z), whole(bias), softplus,
            whole(weight), out, tiling,
        )  # fmt: skip
    kept = u.new_empty(plan.states + plan.totals, dtype=FLOAT)
    chunks: tuple[Address, ...] = (None, None, None)  # starts, ends, totals
    if plan.find_ends is not None:
        states = kept.data_ptr()
        totals = states + plan.states * FLOAT.itemsize
        if plan.join is None:
            plan.find_ends(*inputs, None, states, totals, None)
            chunks = (None, states, totals)
        else:
            ends = u.new_empty(plan.states, dtype=FLOAT)
            plan.find_ends(*inputs, None, ends.data_ptr(), totals, None)
            plan.join(ends.data_ptr(), totals, inputs[2], states)
            chunks = (states, None, None)
    out = u.new_empty(u.shape) if out is None else out  # late, while the device is at work
    plan.write(*inputs, *chunks, out.data_ptr())
    return out, kept
