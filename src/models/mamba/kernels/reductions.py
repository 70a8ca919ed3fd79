"""Triton kernels over what the chunks' programs have left: states joined in order, sums added up in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from umamba.models.mamba.kernels.arithmetic import LOG2E

ELEMENTS = tl.constexpr(1024)  # that a program adds up at a time


@triton.jit
def _compose(decay_first, state_first, decay_second, state_second):
    return decay_first * decay_second, decay_second * state_first + state_second


@triton.jit(do_not_specialize=["chunks", "reverse"])
def carry(
    finals, totals, A, starts, D, chunks, reverse,
    N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """starts[b, c] = state before chunk c (behind it if `reverse`), by a tree over ROWS chunks at a time."""
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # n * D + d
    mask = element < N * D
    channel = element % D
    batch = tl.program_id(1).to(tl.int64) * chunks
    decay = tl.load(A + channel * N + element // D, mask=mask, other=0.0) * LOG2E
    running = tl.zeros([BLOCK], tl.float32)
    index = tl.arange(0, ROWS)
    backwards = reverse != 0
    edge = tl.where(backwards, chunks - 1, 0)
    tl.store(starts + (batch + edge) * N * D + element, running, mask=mask)
    for begin in range(0, chunks, ROWS):
        order = begin + index
        chunk = tl.where(backwards, chunks - 1 - order, order)
        inside = (order < chunks)[:, None] & mask[None, :]
        slot = batch + chunk[:, None]
        factor = tl.exp2(tl.load(totals + slot * D + channel[None, :], mask=inside, other=0.0) * decay[None, :])
        state = tl.load(finals + slot * N * D + element[None, :], mask=inside, other=0.0)
        factor, state = tl.associative_scan((factor, state), 0, _compose)
        state += factor * running[None, :]
        behind = tl.where(backwards, slot - 1, slot + 1)
        tl.store(starts + behind * N * D + element[None, :], state, mask=inside & (order < chunks - 1)[:, None])
        running = tl.sum(tl.where((index == ROWS - 1)[:, None], state, 0.0), 0)


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


@triton.jit(do_not_specialize=["first_rows", "second_rows"])
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
