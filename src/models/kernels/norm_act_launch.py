"""Launches of the fused instance norm's kernels: how a map is divided among programs, and what runs in which order."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from umamba.models.kernels.norm_act_triton import (
    gradient_sums,
    input_gradient,
    join_moments,
    join_sums,
    moments,
    normalize,
)
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.tiling import cdiv, next_power_of_2

FLOAT = torch.float32
ELEMENTS = 2048  # of a tile, 16 a thread
WARPS = 4
WIDEST = 64  # channels a program of a channels-last map: whole cache lines in half precision
PROGRAMS = 16  # a multiprocessor: two rounds of what its registers hold at a time
WHOLE = 4096  # positions that one program reads twice, from cache the second time, instead of two launches
NARROW = 16  # channels of such a program: many programs matter more than whole cache lines


class Tiling(NamedTuple):
    """Positions a chunk, chunks an image, and positions and channels of a tile."""

    rows: int
    chunks: int
    tile: int
    block: int


class Direct:
    """A launch that takes tensors: Triton's interpreter, which tests use where there is no GPU."""

    def __init__(
        self,
        kernel: Any,
        device: int,
        grid: tuple[int, ...],
        types: list,
        numbers: list,
        constants: tuple,
        aligned: bool = True,
        **options: Any,
    ) -> None:
        self.kernel, self.grid, self.fixed = kernel, grid, (*numbers, *constants)

    def __call__(self, *tensors: Tensor | None) -> None:
        self.kernel[self.grid](*tensors, *self.fixed)


@functools.cache
def processors(device: int) -> int:
    """Multiprocessors of a CUDA device; 1 for the interpreter's, -1."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device >= 0 else 1


def tile(batch: int, positions: int, channels: int, channels_last: bool, processors: int) -> Tiling:
    """How a map is divided among programs."""
    whole = positions <= WHOLE
    widest = NARROW if whole else WIDEST
    block = min(widest, next_power_of_2(channels)) if channels_last else 1
    rows = min(ELEMENTS // block, next_power_of_2(positions))
    if whole:
        return Tiling(positions, 1, rows, block)
    wanted = cdiv(processors * PROGRAMS, batch * cdiv(channels, block))
    chunk = cdiv(cdiv(positions, wanted), rows) * rows
    return Tiling(chunk, cdiv(positions, chunk), rows, block)


def laid_out(x: Tensor) -> Tensor:
    """`x` if it is channels-first or channels-last throughout, else channels-first."""
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def laid_out_as(t: Tensor, x: Tensor) -> Tensor:
    """`t` with the dtype and the layout of `x`, which has its shape."""
    if t.dtype == x.dtype and t.stride() == x.stride():
        return t
    return torch.empty_like(x).copy_(t)


class _Step(NamedTuple):
    launch: Callable[..., None]
    places: tuple[int, ...]  # of the kernel's tensors in the list of the pass


class _Pass:
    """The launches of one pass over maps of one description, in order; `chunks` is how many an image is cut into.

    Args:
        tensors: of the pass, the map first; up to five float32 tables, or None, may follow them.
        slope: of the activation.
    """

    def __init__(self, tensors: Description, slope: float) -> None:
        shape, strides, _ = tensors[2]
        self.batch, self.channels, *spatial = shape
        self.positions = math.prod(spatial)
        channels_last = self.channels == 1 or strides[1] == 1
        self.tensors = tensors
        self.types = [*tensors.types(*range(len(tensors) - 2)), *[FLOAT] * 5]
        self.cut = tile(self.batch, self.positions, self.channels, channels_last, processors(tensors.device))
        self.chunks = self.cut.chunks
        row, col = (self.channels, 1) if channels_last else (1, self.positions)
        instance = self.channels * self.positions
        self.numbers = [self.positions, self.channels, self.chunks, self.cut.rows, instance, row, col, slope]
        self.steps: list[_Step] = []

    def over_map(self, kernel: Any, places: tuple[int, ...], numbers: tuple[float, ...], *flags: int) -> None:
        """Adds a launch with a program for each chunk and block of channels."""
        programs = self.batch * self.chunks * cdiv(self.channels, self.cut.block)
        self._add(kernel, programs, places, [*self.numbers, *numbers], (*flags, self.cut.tile, self.cut.block))

    def over_chunks(self, kernel: Any, places: tuple[int, ...], columns: int, numbers: list[float]) -> None:
        """Adds a launch that joins what the chunks left in `columns` columns of tables."""
        self._join(kernel, places, self.batch, self.chunks, columns, numbers)

    def over_batch(self, kernel: Any, places: tuple[int, ...], columns: int, numbers: list[float]) -> None:
        """Adds a launch that joins what the images left, as one image whose chunks they are."""
        self._join(kernel, places, 1, self.batch, columns, numbers)

    def _join(
        self, kernel: Any, places: tuple[int, ...], tables: int, rows: int, columns: int, numbers: list[float]
    ) -> None:
        block, height = 16, min(128, next_power_of_2(rows))
        self._add(kernel, tables * cdiv(columns, block), places, numbers, (height, block))

    def _add(self, kernel: Any, programs: int, places: tuple[int, ...], numbers: list, constants: tuple) -> None:
        make = Launch if self.tensors.device >= 0 else Direct
        types = [self.types[i] for i in places]
        launch = make(
            kernel, self.tensors.device, (programs,), types, numbers, constants,
            aligned=self.tensors.aligned, num_warps=WARPS,
        )  # fmt: skip
        self.steps.append(_Step(launch, places))

    def run(self, *tensors: Tensor | None) -> None:
        on_gpu = self.tensors.device >= 0
        at = [None if t is None else t.data_ptr() for t in tensors] if on_gpu else tensors
        for launch, places in self.steps:
            launch(*[at[i] for i in places])


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _forward_pass(tensors: Description, slope: float, eps: float) -> _Pass:
    """For 0 x, 1 weight, 2 bias, 3 residual, 4 out; then 5 statistics, 6 those of chunks and 7 nothing."""
    run = _Pass(tensors, slope)
    residual, whole = int(tensors.has(3)), run.chunks == 1
    run.over_map(moments, (0, 6, 1, 2, 3, 4, 5), (eps,), residual, whole)
    if not whole:
        numbers = [run.positions, run.channels, run.chunks, run.cut.rows, eps]
        run.over_chunks(join_moments, (6, 5), run.channels, numbers)
        run.over_map(normalize, (0, 1, 2, 3, 4, 5, 7, 7, 7), (1.0,), residual)
    return run


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _statistics_pass(tensors: Description, eps: float) -> _Pass:
    """For 0 x; then 1 statistics, 2 those of chunks and 3 nothing."""
    run = _Pass(tensors, 1.0)
    run.over_map(moments, (0, 2, 3, 3, 3, 3, 3), (eps,), 0, False)
    run.over_chunks(join_moments, (2, 1), run.channels, [run.positions, run.channels, run.chunks, run.cut.rows, eps])
    return run


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _output_pass(tensors: Description, slope: float, r_slope: float) -> _Pass:
    """For 0 x, 1 weight, 2 bias, 3 residual, 4 out, 5 and 6 the residual's weight and bias; then 7 statistics and 8 the
    residual's.
    """
    run = _Pass(tensors, slope)
    run.over_map(normalize, (0, 1, 2, 3, 4, 7, 5, 6, 8), (r_slope,), tensors.has(3) + tensors.has(5))
    return run


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _backward_pass(tensors: Description, slope: float, r_slope: float) -> _Pass:
    """For 0 x, 1 weight, 2 bias, 3 residual, 4 grad, 5 grad_x, 6 grad_residual, 7 and 8 the residual's weight and bias;
    then 9 statistics, 10 the residual's, 11 sums, 12 those of chunks and 13 that of the batch.
    """
    run = _Pass(tensors, slope)
    residual, whole = tensors.has(3) + tensors.has(7), run.chunks == 1
    sums = 11 if whole else 12
    run.over_map(gradient_sums, (4, 0, 1, 2, 3, 9, 7, 8, 10, 6, 5, sums), (r_slope,), residual, whole)
    if not whole:
        run.over_chunks(join_sums, (12, 11), 2 * run.channels, [2 * run.channels, run.chunks])
        run.over_map(input_gradient, (6 if residual else 4, 0, 1, 2, 9, 11, 5), (), not residual)
    run.over_batch(join_sums, (11, 13), 2 * run.channels, [2 * run.channels, run.batch])
    return run


class Normed(NamedTuple):
    """A map in terms of the norm that made it, which the kernels form as they read."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    stats: Tensor
    slope: float


def _residual(given: Tensor | Normed | None, x: Tensor) -> tuple[list[Tensor | None], Tensor | None, float]:
    """Map, weight and bias, statistics, and slope of a residual, what it lacks being None."""
    if given is None or isinstance(given, Tensor):
        return [None if given is None else laid_out_as(given, x), None, None], None, 1.0
    return [laid_out_as(given.x, x), given.weight, given.bias], given.stats, given.slope


def _table(x: Tensor, *leading: int) -> Tensor:
    """Two float32 numbers for every channel of `x`, (*leading, 2, C)."""
    return x.new_empty((*leading, 2, x.shape[1]), dtype=FLOAT)


def _chunk_table(x: Tensor, chunks: int) -> Tensor | None:
    return None if chunks == 1 else _table(x, x.shape[0], chunks)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, slope: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The output, and mean and 1 / sqrt(variance + eps), (B, 2, C) float32."""
    x = laid_out(x)
    residual = None if residual is None else laid_out_as(residual, x)
    tensors = x, weight, bias, residual, torch.empty_like(x)
    launches = _forward_pass(describe(*tensors)[0], slope, eps)
    stats = _table(x, x.shape[0])
    launches.run(*tensors, stats, _chunk_table(x, launches.chunks), None)
    return tensors[-1], stats


def statistics(x: Tensor, eps: float) -> Tensor:
    """Mean and 1 / sqrt(variance + eps) of each image and channel, (B, 2, C) float32."""
    x = laid_out(x)
    launches = _statistics_pass(describe(x)[0], eps)
    stats = _table(x, x.shape[0])
    launches.run(x, stats, _table(x, x.shape[0], launches.chunks), None)
    return stats


def output(
    x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, residual: Tensor | Normed | None, slope: float
) -> Tensor:
    """The output of `forward` again, from what it gave as statistics."""
    x = laid_out(x)
    (added, *norm), r_stats, r_slope = _residual(residual, x)
    out = torch.empty_like(x)
    others = weight, bias, added, out, *norm
    _output_pass(describe(x, *others)[0], slope, r_slope).run(x, *others, stats, r_stats)
    return out


def backward(
    grad: Tensor, stats: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | Normed | None, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias (views of one another) and residual."""
    x = laid_out(x)
    (added, *norm), r_stats, r_slope = _residual(residual, x)
    grad_x, grad_residual = torch.empty_like(x), None if added is None else torch.empty_like(x)
    others = weight, bias, added, laid_out_as(grad, x), grad_x, grad_residual, *norm
    launches = _backward_pass(describe(x, *others)[0], slope, r_slope)
    total = _table(x)
    launches.run(x, *others, stats, r_stats, _table(x, x.shape[0]), _chunk_table(x, launches.chunks), total)
    return grad_x, total[1].to(weight.dtype), total[0].to(bias.dtype), grad_residual
