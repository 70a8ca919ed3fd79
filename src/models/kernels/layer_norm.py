"""Layer norm over the last axis with half-precision maps and float32 weights and arithmetic, in Triton.

torch's own casts the map to float32 first and runs one block a row; a stage of a U-Net has millions of short rows. Mean
and standard deviation are formed again in the backward pass, from the row that it reads anyway.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from umamba.models.mamba.kernels.eager import as_function
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.operation import as_operation
from umamba.models.mamba.kernels.resident import device_of_index
from umamba.models.mamba.kernels.tiling import cdiv, next_power_of_2

MAX_WIDTH = 2048  # of a row, which a program holds whole
ELEMENTS = 2048  # of a tile
WARPS = 4
PROGRAMS = 16  # a multiprocessor


@triton.jit
def _standardized(x, place, inside, C, eps):
    """(x - mean) / sqrt(variance + eps) of whole rows, and 1 / sqrt(variance + eps)."""
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1) / C
    shifted = tl.where(inside, value - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(shifted * shifted, 1) / C + eps)
    return shifted * rstd[:, None], rstd


@triton.jit(do_not_specialize=["rows"])
def _forward(x, weight, bias, out, rows, C, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < C)[None, :]
    place = row[:, None] * C + column[None, :]
    standard, _ = _standardized(x, place, inside, C, eps)
    gain = tl.load(weight + column, mask=column < C, other=0.0)
    offset = tl.load(bias + column, mask=column < C, other=0.0)
    tl.store(out + place, standard * gain[None, :] + offset[None, :], mask=inside)


@triton.jit(do_not_specialize=["rows", "tiles"])
def _backward(grad, x, weight, grad_x, partial, rows, C, tiles, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """dx = rstd (g - mean g - xhat mean(g xhat)), g = grad weight; sums for weight, bias to partial (programs, 2, C).

    A program takes every tile whose number is its own plus a multiple of the number of programs.
    """
    column = tl.arange(0, BLOCK)
    gain = tl.load(weight + column, mask=column < C, other=0.0)
    sum_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_bias = tl.zeros([ROWS, BLOCK], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < C)[None, :]
        place = row[:, None] * C + column[None, :]
        standard, rstd = _standardized(x, place, inside, C, eps)
        given = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        sum_weight += given * standard
        sum_bias += given
        g = given * gain[None, :]
        g -= (tl.sum(g, 1) / C)[:, None] + standard * (tl.sum(g * standard, 1) / C)[:, None]
        tl.store(grad_x + place, g * rstd[:, None], mask=inside)
    part = partial + tl.program_id(0) * 2 * C + column
    tl.store(part, tl.sum(sum_weight, 0), mask=column < C)
    tl.store(part + C, tl.sum(sum_bias, 0), mask=column < C)


def _tile(shape: torch.Size) -> tuple[int, int, int, int]:
    """Rows in all, rows and columns of a tile, and the number of tiles."""
    *leading, width = shape
    rows = functools.reduce(int.__mul__, leading, 1)
    block = next_power_of_2(width)
    height = max(1, ELEMENTS // block)
    return rows, height, block, cdiv(rows, height)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _forward_launch(tensors: Description, eps: float) -> Launch:
    """For x, weight, bias."""
    shape = tensors.shape(0)
    rows, height, block, tiles = _tile(shape)
    x, weight, bias = tensors.types(0, 1, 2)
    numbers = [rows, shape[-1], eps]
    types = [x, weight, bias, x]
    return Launch(_forward, tensors.device, (tiles,), types, numbers, (height, block), num_warps=WARPS)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _backward_launch(tensors: Description, eps: float) -> tuple[Launch, int]:
    """For grad, x, weight, and how many programs there are."""
    shape, device = tensors.shape(1), tensors.device
    rows, height, block, tiles = _tile(shape)
    grad, x, weight = tensors.types(0, 1, 2)
    programs = min(tiles, PROGRAMS * device_of_index(device).multiprocessors)
    numbers = [rows, shape[-1], tiles, eps]
    types = [grad, x, weight, x, torch.float32]
    return Launch(_backward, device, (programs,), types, numbers, (height, block), num_warps=WARPS), programs


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The output, and an empty tensor: nothing is kept besides the inputs."""
    x = x.contiguous()
    out = torch.empty_like(x)
    tensors, addresses = describe(x, weight, bias)
    _forward_launch(tensors, eps)(*addresses, out.data_ptr())
    return out, x.new_empty(0)


def backward(grad: Tensor, _: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Gradients of x, weight and bias, the latter two views of one tensor."""
    x, grad = x.contiguous(), grad.contiguous()
    tensors, addresses = describe(grad, x, weight)
    launch, programs = _backward_launch(tensors, eps)
    grad_x, partial = torch.empty_like(x), x.new_empty((programs, 2, x.shape[-1]), dtype=torch.float32)
    launch(*addresses, grad_x.data_ptr(), partial.data_ptr())
    grad_weight, grad_bias = partial.sum(0)
    return grad_x, grad_weight, grad_bias


_operation = as_operation(
    "layer_norm",
    "Tensor x, Tensor weight, Tensor bias, float eps",
    forward,
    backward,
    fake=lambda x, *others: (x.new_empty(x.shape), x.new_empty(0)),
    fresh=(0,),
    takes="grad, x, weight, bias, eps",
)

# Layer norm of x (..., C), float16 or bfloat16 on a CUDA device, C <= MAX_WIDTH, with weight and bias (C,) in float32,
# and eps, all by position; the result has the shape and dtype of x and is contiguous
layer_norm = as_function("LayerNorm", _operation, forward, backward, tensors=3)
