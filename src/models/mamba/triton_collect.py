"""Triton kernel that adds up what the programs of the backward pass have summed, two tables in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

ELEMENTS = tl.constexpr(1024)  # that a program adds up at a time


@triton.jit
def _column_sums(table, total, rows, columns, block, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    column = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS).to(tl.int64)
    mask = column < columns
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, rows, ROWS):
        place = (begin + row)[:, None] * columns + column[None, :]
        sums += tl.load(table + place, mask=(begin + row < rows)[:, None] & mask[None, :], other=0.0)
    tl.store(total + column, tl.sum(sums, 0), mask=mask)


@triton.jit
def collect(
    first, second, first_total, second_total, first_rows, first_columns, second_rows, second_columns,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """total[c] = sum over rows r of table[r, c], always in the same order, for two float32 tables or one.

    A program takes FIRST columns of the one (which has many rows) or SECOND columns of the other (which is wide).
    """
    blocks = tl.cdiv(first_columns, FIRST)
    block = tl.program_id(0)
    if block < blocks:
        _column_sums(first, first_total, first_rows, first_columns, block, ELEMENTS // FIRST, FIRST)
    elif second is not None:
        place = block - blocks
        _column_sums(second, second_total, second_rows, second_columns, place, ELEMENTS // SECOND, SECOND)
