"""A float32 table as half-precision rows of whole 16 bytes, which products on tensor cores want, in one pass."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.tiling import cdiv

ELEMENTS = 2048  # a program writes
WIDTH = 8  # numbers that a row has a multiple of


@triton.jit(do_not_specialize=["rows"])
def pad_rows(table, out, rows, C, WIDE: tl.constexpr, ELEMENTS: tl.constexpr):
    """out (rows, WIDE) = table (rows, C), and zeros behind it."""
    place = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    row = place // WIDE
    column = place - row * WIDE
    inside = row < rows
    value = tl.load(table + row * C + column, mask=inside & (column < C), other=0.0)
    tl.store(out + place, value, mask=inside)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _launch(tensors: Description) -> Launch:
    """For the table and what it becomes."""
    (rows, columns), (_, wide) = tensors.shape(0), tensors.shape(1)
    grid = (cdiv(rows * wide, ELEMENTS),)
    types = tensors.types(0, 1)
    return Launch(pad_rows, tensors.device, grid, types, [rows, columns], (wide, ELEMENTS), num_warps=4)


def padded_rows(table: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, C) float32, contiguous -> (rows, C rounded up to a multiple of WIDTH) in `dtype`, with zeros behind."""
    out = table.new_empty((len(table), table.shape[1] + -table.shape[1] % WIDTH), dtype=dtype)
    tensors, addresses = describe(table, out)
    _launch(tensors)(*addresses)
    return out
