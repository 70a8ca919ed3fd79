"""Launches of the kernels that join two channels-last maps and part their gradient."""

from __future__ import annotations

import functools

from torch import Tensor

from umamba.models.kernels.concatenation_triton import join, part
from umamba.models.kernels.norm_act_launch import FLOAT, PROGRAMS, WARPS, Direct, processors
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.tiling import cdiv, next_power_of_2

ELEMENTS = 4096  # of a tile, 32 a thread
WIDEST = 64  # columns of a tile: whole cache lines in half precision


def _rows(x: Tensor) -> Tensor:
    """A map (B, C, *S) as (positions, C), without a copy if it is channels-last."""
    return x.movedim(1, -1).contiguous().flatten(0, -2)


def _map(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(like.shape[0], *like.shape[2:], -1).movedim(-1, 1)


def _cut(rows: int, columns: int) -> tuple[int, int, int, int]:
    """Rows and columns of a tile, and the number of tiles along each."""
    block = min(WIDEST, next_power_of_2(columns))
    height = ELEMENTS // block
    return height, block, cdiv(rows, height), cdiv(columns, block)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _join_launch(tensors: Description) -> Launch | Direct:
    """For rows of x and of the other, bias or None, and rows of the joined map."""
    (rows, left), (_, right) = tensors.shape(0), tensors.shape(1)
    height, block, tiles, blocks = _cut(rows, left + right)
    make = Launch if tensors.device >= 0 else Direct
    return make(
        join, tensors.device, (tiles * blocks,), tensors.types(0, 1, 2, 3), [rows, left, right], (height, block),
        aligned=tensors.aligned, num_warps=WARPS,
    )  # fmt: skip


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _part_launch(tensors: Description, summed: bool) -> tuple[Launch | Direct, int]:
    """For the rows of a gradient and of its parts, and what its programs sum; and how many of these share a column."""
    rows, (left, right) = tensors.shape(0)[0], (tensors.shape(i)[1] for i in (1, 2))
    height, block, tiles, blocks = _cut(rows, left + right)
    programs = min(tiles, cdiv(PROGRAMS * processors(tensors.device), blocks))
    make = Launch if tensors.device >= 0 else Direct
    types = [*tensors.types(0, 1, 2), FLOAT if summed else None]
    launch = make(
        part, tensors.device, (programs * blocks,), types, [rows, left, right, tiles], (height, block),
        aligned=tensors.aligned, num_warps=WARPS,
    )  # fmt: skip
    return launch, programs


def joined(x: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, *S) plus bias (C,), if there is one, and the other (B, C', *S) as (B, C + C', *S), channels-last."""
    rows = _rows(x), _rows(other)
    out = x.new_empty((len(rows[0]), x.shape[1] + other.shape[1]))
    tensors = *rows, bias, out
    _run(_join_launch(describe(*tensors)[0]), tensors)
    return _map(out, x)


def parted(grad: Tensor, channels: int, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradient of what was joined, of `channels` and of other channels, channels-last, and of the bias."""
    rows = _rows(grad)
    parts = tuple(grad.new_empty((len(rows), n)) for n in (channels, grad.shape[1] - channels))
    launch, programs = _part_launch(describe(rows, *parts)[0], bias is not None)
    partial = None if bias is None else grad.new_empty((programs, channels), dtype=FLOAT)
    _run(launch, (rows, *parts, partial))
    grad_bias = None if bias is None or partial is None else partial.sum(0).to(bias.dtype)
    return _map(parts[0], grad), _map(parts[1], grad), grad_bias


def _run(launch: Launch | Direct, tensors: tuple[Tensor | None, ...]) -> None:
    if isinstance(launch, Direct):
        launch(*tensors)
    else:
        launch(*(None if t is None else t.data_ptr() for t in tensors))
