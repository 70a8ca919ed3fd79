"""Triton kernels that join the channels of two channels-last maps, one with a bias, and part their gradient again.

Names: rows positions of the whole batch; x has C channels a row, the other A, both rows are contiguous. Sums are
float32 in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(tile, block, rows, C, A, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows and columns of a tile of the joined map, and where it, x and the other lie."""
    row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None]
    left = inside & (column < C)[None, :]
    right = inside & ((column >= C) & (column < C + A))[None, :]
    both = row[:, None] * (C + A) + column[None, :]
    return column, left, right, both, row[:, None] * C + column[None, :], row[:, None] * A + (column - C)[None, :]


@triton.jit(do_not_specialize=["rows"])
def join(x, other, bias, out, rows, C, A, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[:, :C] = x + bias, in the dtype of x as an addition of its own would be; out[:, C:] = other."""
    blocks = tl.cdiv(C + A, BLOCK)
    pid = tl.program_id(0)
    column, left, right, both, at_x, at_other = _place(pid // blocks, pid % blocks, rows, C, A, ROWS, BLOCK)
    value = tl.load(x + at_x, mask=left, other=0.0)
    if bias is not None:
        offset = tl.load(bias + column, mask=column < C, other=0.0).to(x.dtype.element_ty).to(tl.float32)
        value = (value.to(tl.float32) + offset[None, :]).to(x.dtype.element_ty)
    tl.store(out + both, value, mask=left)
    tl.store(out + both, tl.load(other + at_other, mask=right, other=0.0), mask=right)


@triton.jit(do_not_specialize=["rows", "tiles"])
def part(grad, grad_x, grad_other, partial, rows, C, A, tiles, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The two parts of `grad`, and sums over rows of the first into `partial` (programs a block of columns, C).

    A program takes every tile whose number is its own plus a multiple of how many share its columns.
    """
    blocks = tl.cdiv(C + A, BLOCK)
    block = tl.program_id(0) % blocks
    first, step = tl.program_id(0) // blocks, tl.num_programs(0) // blocks
    column = block * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for tile in range(first, tiles, step):
        _, left, right, both, at_x, at_other = _place(tile, block, rows, C, A, ROWS, BLOCK)
        value = tl.load(grad + both, mask=left | right, other=0.0)
        tl.store(grad_x + at_x, value, mask=left)
        tl.store(grad_other + at_other, value, mask=right)
        if partial is not None:
            sums += value.to(tl.float32)
    if partial is not None:
        tl.store(partial + first * C + column, tl.sum(sums, 0), mask=column < C)
