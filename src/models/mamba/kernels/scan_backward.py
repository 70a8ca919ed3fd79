"""Backward pass of the selective scan in Triton: buffers and launches around its kernels."""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor

from umamba.models.mamba.kernels.chunks import adjoint_ends
from umamba.models.mamba.kernels.gradients import gradients
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.reductions import collect
from umamba.models.mamba.kernels.resident import GRADIENTS_REGISTERS, backward_programs
from umamba.models.mamba.kernels.scan_forward import FLOAT, join_launch, whole_rows, with_whole_rows
from umamba.models.mamba.kernels.tiling import (
    LANES,
    Tiling,
    cdiv,
    constants,
    kept_sizes,
    padded,
    padded_states,
    spread,
    tile,
    unrolled,
)

HISTORY = 4  # tokens whose states `gradients` keeps in registers, at d_state 16
PARTIAL, PARTS = 32, 256  # columns a program of `collect`: of a table with many rows, and of one with few


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
    weight: Tensor | None


class _Plan(NamedTuple):
    """Launches of a backward pass (those that it has), and its buffers in bytes.

    One buffer holds, from the offsets given, states (adjoints of the chunks), `ends` where they are joined by a launch
    of its own, the scratch of `gradients` where the ends were before, and what its programs sum.
    """

    find_ends: Launch | None
    join: Launch | None
    write: Launch
    collect: Launch
    totals: int  # offset in what the forward pass kept
    scratch: int
    partial: int
    parts: int | None  # sums for `small`, if each of some groups has its own
    work: int


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _plan(inputs: Description, softplus: bool, in_place: bool, tiling: Tiling | None) -> _Plan | None:
    """For the inputs of `scan_backward`; None if a row is not contiguous."""
    if not whole_rows(inputs):
        return None
    GRAD, U, DELTA, A, B, C, SKIP, Z, WEIGHT, BIAS = range(10)
    shape, (_, states) = inputs.shape(U), inputs.shape(A)
    rank = inputs.shape(WEIGHT)[1] if inputs.has(WEIGHT) else 0
    batch, length, channels = shape
    device = inputs.device
    resident = backward_programs(device)
    cut = tiling or tile(batch, length, channels, resident)
    several = cut.chunks > 1
    sizes = constants(states, rank)

    find_ends = join = None
    if several:
        types = [*inputs.types(GRAD, DELTA, A, C, Z, WEIGHT, BIAS), FLOAT]
        numbers = [length, channels, cut.chunks, *inputs.strides(GRAD, DELTA, C, Z), cut.tokens]
        grid = (batch * cut.chunks * cdiv(channels, cut.block),)
        constant = (*sizes, softplus, cut.block, unrolled(states))
        find_ends = Launch(adjoint_ends, device, grid, types, numbers, constant, num_warps=1)
        if not cut.few:
            join = join_launch(inputs, cut, shape, states, reverse=True)

    history = min(HISTORY, unrolled(states))
    blocks, items = cdiv(channels, LANES), batch * cut.chunks
    groups, programs = spread(blocks, items, resident)
    scratch = cdiv(cut.tokens, history) * padded_states(states) * LANES
    row = 2 * states + rank
    maps = (GRAD, U, Z) if rank else (GRAD, U, DELTA, Z)
    wide_copies = history > 1 and all(inputs.in_whole_words(i) for i in maps)  # a lane copies `history` numbers
    chunk_types = [FLOAT if several else None] * 2 + [FLOAT if cut.few else None]
    to_u, to_delta, to_z, to_y = inputs.types(U, DELTA, Z, GRAD)
    to_delta, to_y = None if rank else to_delta, to_y if in_place else None
    whole = [length * channels, channels]
    outputs = inputs.strides(U, DELTA, Z, GRAD) if in_place else whole * 4
    write = Launch(
        gradients,
        device,
        (programs, groups),
        [*inputs.types(*range(10)), *chunk_types, FLOAT, to_u, to_delta, to_z, FLOAT, to_y, FLOAT],
        [
            length, channels, items, cut.chunks, *inputs.strides(GRAD, U, DELTA, B, C, Z), *outputs[:6],
            batch * length * row, length * row, row, *outputs[6:], scratch, cut.tokens,
        ],
        (*sizes, softplus, history, LANES, wide_copies),
        num_warps=1,
        maxnreg=GRADIENTS_REGISTERS,
    )  # fmt: skip

    columns, small = (2 + states + rank) * channels, batch * length * row if groups > 1 else 0
    tables = [programs, columns, groups, small]
    types = [FLOAT, FLOAT if small else None] * 2
    grid = (cdiv(columns, PARTIAL) + cdiv(small, PARTS),)
    sums = Launch(collect, device, grid, types, tables, (PARTIAL, PARTS), num_warps=4)

    kept, _ = kept_sizes(cut, batch, channels, states)
    ends = kept if join is not None else 0
    partial = kept + padded(max(ends, programs * groups * scratch))
    parts = partial + padded(programs * columns)
    in_bytes = [FLOAT.itemsize * n for n in (kept, partial, parts)]
    return _Plan(
        find_ends, join, write, sums,
        totals=in_bytes[0], scratch=in_bytes[0], partial=in_bytes[1], parts=in_bytes[2] if small else None,
        work=parts + groups * small,
    )  # fmt: skip


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
    kept: Tensor,
    weight: Tensor | None = None,
    in_place: bool = False,
    tiling: Tiling | None = None,
) -> Gradients:
    """Launch the backward pass; arguments as `scan_forward`, `grad` that of its output and `kept` what it returned.

    With `in_place`, the gradients of u, delta and z overwrite these tensors, whose rows must be contiguous, and `grad`
    receives the output of the scan.
    """
    inputs, addresses = describe(grad, u, delta, A, B, C, skip, z, weight, bias)
    plan = _plan(inputs, softplus, in_place, tiling)
    if plan is None:
        if in_place:
            raise ValueError("The backward pass in place needs tensors with contiguous rows.")
        whole = with_whole_rows
        return scan_backward(
            whole(grad), whole(u), whole(delta), whole(A), whole(B), whole(C), whole(skip), whole(z), whole(bias),
            softplus, kept, whole(weight), tiling=tiling,
        )  # fmt: skip
    buffer = u.new_empty(plan.work, dtype=FLOAT)
    work = buffer.data_ptr()
    scratch, partial = work + plan.scratch, work + plan.partial
    starts = adjoints = totals = None
    if plan.find_ends is not None:
        grad_at, _, delta_at, A_at, _, C_at, _, z_at, weight_at, bias_at = addresses
        starts, adjoints = kept.data_ptr(), work
        totals = starts + plan.totals
        ends = adjoints if plan.join is None else scratch
        plan.find_ends(grad_at, delta_at, A_at, C_at, z_at, weight_at, bias_at, ends)
        if plan.join is not None:
            plan.join(ends, totals, A_at, adjoints)
            totals = None

    # Late, while the device is at work
    batch, length, channels = shape = u.shape
    states, rank = A.shape[1], 0 if weight is None else weight.shape[1]
    grad_u, grad_delta, grad_z = u, None if rank else delta, z
    if not in_place:
        grad_u = u.new_empty(shape)
        grad_delta = None if rank else delta.new_empty(shape)
        grad_z = None if z is None else z.new_empty(shape)
    sums = u.new_empty((2 + states + rank, channels), dtype=FLOAT)
    small = u.new_empty((batch, length, rank + 2 * states), dtype=FLOAT)
    outputs = [None if t is None else t.data_ptr() for t in (grad_u, grad_delta, grad_z)]
    y = addresses[0] if in_place else None
    if plan.parts is None:
        plan.write(*addresses, starts, adjoints, totals, scratch, *outputs, small.data_ptr(), y, partial)
        plan.collect(partial, None, sums.data_ptr(), None)
    else:
        parts = work + plan.parts
        plan.write(*addresses, starts, adjoints, totals, scratch, *outputs, parts, y, partial)
        plan.collect(partial, parts, sums.data_ptr(), small.data_ptr())
    return Gradients(
        u=grad_u,
        delta=grad_delta,
        A=sums.as_strided((channels, states), (1, channels), 2 * channels),  # [2 : 2 + states].t() in one call
        small=small,
        skip=sums[0],
        z=grad_z,
        bias=sums[1],
        weight=sums[2 + states :].t() if rank else None,
    )
