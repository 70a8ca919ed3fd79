"""Instance norm, residual sum and LeakyReLU as one operation, with its gradients: launches around the Triton kernels.

    y = act(norm(x) * weight + bias + residual),  norm(x) = (x - mean) / sqrt(variance + eps) of each image and channel

The bias of a convolution before it may stay unadded, since norm(x + conv_bias) = norm(x): adding it and summing its
gradient, which is zero, each read the whole map. Kept for the backward pass are the inputs, mean and
1 / sqrt(variance + eps); what the activation saw is formed again.
Source: instance norm, Ulyanov et al. (arXiv 1607.08022); the variance is the biased one, as torch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

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
from umamba.models.mamba.kernels.eager import as_function
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.tiling import cdiv, next_power_of_2

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOAT = torch.float32
MAX_INSTANCE = 2**31  # elements of one image's map: offsets inside it are 32-bit
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


class _Direct:
    """A launch that takes tensors: Triton's interpreter, which tests use where there is no GPU."""

    def __init__(self, kernel, device, grid, types, numbers, constants, aligned, **options) -> None:
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


class _Plan(NamedTuple):
    """Launches of a pass; the second and third only where an image is more than one chunk."""

    first: Callable[..., None]
    join: Callable[..., None] | None
    last: Callable[..., None] | None  # as join
    chunks: int


def _plan(tensors: Description, kernels: tuple, types: tuple, slope: float, extra: tuple, backward: bool) -> _Plan:
    shape, strides, dtype = tensors[2]
    batch, channels, *spatial = shape
    positions = functools.reduce(int.__mul__, spatial, 1)
    channels_last = channels == 1 or strides[1] == 1
    residual = tensors[5] is not None
    cut = tile(batch, positions, channels, channels_last, processors(tensors.device))
    launch = Launch if tensors.device >= 0 else _Direct
    row, col = (channels, 1) if channels_last else (1, positions)
    numbers = [positions, channels, cut.chunks, cut.rows, channels * positions, row, col, slope]
    grid = (batch * cut.chunks * cdiv(channels, cut.block),)
    sizes = (cut.tile, cut.block)
    common = {"aligned": tensors.aligned, "num_warps": WARPS}

    def make(kernel, grid, types, numbers, constants):
        return launch(kernel, tensors.device, grid, types, numbers, constants, **common)

    first, join, last = kernels
    whole = cut.chunks == 1
    one = make(first, grid, types[0], [*numbers, *extra], (residual, whole, *sizes))
    if whole:
        return _Plan(one, None, None, 1)
    columns = 2 * channels if backward else channels
    joining = [channels * 2, cut.chunks] if backward else [positions, channels, cut.chunks, cut.rows, *extra]
    block = 16
    rows = min(128, next_power_of_2(cut.chunks))
    two = make(join, (batch * cdiv(columns, block),), types[1], joining, (rows, block))
    three = make(last, grid, types[2], numbers, (not residual if backward else residual, *sizes))
    return _Plan(one, two, three, cut.chunks)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _forward_plan(tensors: Description, slope: float, eps: float) -> _Plan:
    """For x, weight, bias, residual, out."""
    x, weight, bias, residual, out = tensors.types(*range(5))
    types = (
        [x, FLOAT, weight, bias, residual, out, FLOAT],
        [FLOAT, FLOAT],
        [x, weight, bias, residual, out, FLOAT],
    )
    return _plan(tensors, (moments, join_moments, normalize), types, slope, (eps,), False)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _backward_plan(tensors: Description, slope: float) -> _Plan:
    """For x, weight, bias, residual, grad, grad_x, grad_residual."""
    x, weight, bias, residual, grad, grad_x, grad_residual = tensors.types(*range(7))
    source = grad if residual is None else grad_residual
    types = (
        [grad, x, weight, bias, residual, FLOAT, grad_residual, grad_x, FLOAT],
        [FLOAT, FLOAT],
        [source, x, weight, bias, FLOAT, FLOAT, grad_x],
    )
    return _plan(tensors, (gradient_sums, join_sums, input_gradient), types, slope, (), True)


def _arguments(x: Tensor, tensors: list[Tensor | None]) -> list:
    return [None if t is None else t.data_ptr() for t in tensors] if x.is_cuda else tensors


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    conv_bias: Tensor | None,
    slope: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The output, and mean and 1 / sqrt(variance + eps), (B, 2, C) float32."""
    x = laid_out(x)
    residual = None if residual is None else laid_out_as(residual, x)
    out = torch.empty_like(x)
    stats = x.new_empty((x.shape[0], 2, x.shape[1]), dtype=FLOAT)
    plan = _forward_plan(describe(x, weight, bias, residual, out)[0], slope, eps)
    partial = None if plan.join is None else x.new_empty((x.shape[0], plan.chunks, 2, x.shape[1]), dtype=FLOAT)
    at = _arguments(x, [x, partial, weight, bias, residual, out, stats])
    plan.first(*at)
    if plan.join is not None and plan.last is not None:
        plan.join(at[1], at[6])
        plan.last(at[0], *at[2:])
    return out, stats


def backward(
    grad: Tensor,
    stats: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    conv_bias: Tensor | None,
    slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of x, weight, bias (views of one another), residual and conv_bias."""
    x = laid_out(x)
    grad = laid_out_as(grad, x)
    grad_x = torch.empty_like(x)
    grad_residual = None
    if residual is not None:
        residual, grad_residual = laid_out_as(residual, x), torch.empty_like(x)
    plan = _backward_plan(describe(x, weight, bias, residual, grad, grad_x, grad_residual)[0], slope)
    sums = x.new_empty((x.shape[0], 2, x.shape[1]), dtype=FLOAT)
    partial = sums if plan.join is None else x.new_empty((x.shape[0], plan.chunks, 2, x.shape[1]), dtype=FLOAT)
    tensors = [grad, x, weight, bias, residual, stats, grad_residual, grad_x, partial, sums]
    at_grad, at_x, at_weight, at_bias, at_residual, at_stats, at_g, at_grad_x, at_partial, at_sums = _arguments(
        x, tensors
    )
    plan.first(at_grad, at_x, at_weight, at_bias, at_residual, at_stats, at_g, at_grad_x, at_partial)
    if plan.join is not None and plan.last is not None:
        plan.join(at_partial, at_sums)
        source = at_grad if residual is None else at_g
        plan.last(source, at_x, at_weight, at_bias, at_stats, at_sums, at_grad_x)
    total = sums.sum(0)
    grad_conv_bias = None if conv_bias is None else torch.zeros_like(conv_bias)
    return grad_x, total[1].to(weight.dtype), total[0].to(bias.dtype), grad_residual, grad_conv_bias


@torch.library.custom_op("umamba::norm_act", mutates_args=(), device_types="cuda")
def operation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    conv_bias: Tensor | None,
    slope: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`forward` for whatever watches operations."""
    return forward(x, weight, bias, residual, conv_bias, slope, eps)


@torch.library.custom_op("umamba::norm_act_backward", mutates_args=(), device_types="cuda")
def operation_backward(
    grad: Tensor,
    stats: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    conv_bias: Tensor | None,
    slope: float,
    eps: float,
) -> list[Tensor]:
    """Gradients of those tensors that are given, in their order."""
    grad_x, grad_weight, grad_bias, *rest = backward(grad, stats, x, weight, bias, residual, conv_bias, slope, eps)
    # operations may not return views of one another
    return [grad_x, grad_weight.clone(), grad_bias.clone(), *(t for t in rest if t is not None)]


@operation.register_fake
def _(x, weight, bias, residual, conv_bias, slope, eps):
    return torch.empty_like(laid_out(x)), x.new_empty((x.shape[0], 2, x.shape[1]), dtype=FLOAT)


@operation_backward.register_fake
def _(grad, stats, x, weight, bias, residual, conv_bias, slope, eps):
    x = laid_out(x)
    like = (x, weight, bias, None if residual is None else x, conv_bias)
    return [torch.empty_like(t) for t in like if t is not None]


def _setup(ctx, inputs, output) -> None:
    *tensors, ctx.slope, ctx.eps = inputs
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    got = iter(operation_backward(grad, *ctx.saved_tensors, ctx.slope, ctx.eps))
    return *(None if t is None else next(got) for t in ctx.saved_tensors[1:]), None, None


operation.register_autograd(_backward, setup_context=_setup)

_function = as_function("NormAct", operation, forward, backward, tensors=5)


def norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    conv_bias: Tensor | None = None,
    slope: float = 1.0,
    eps: float = 1e-5,
) -> Tensor:
    """act(instance norm of x, scaled and shifted, plus residual), act(v) = v where v > 0 and slope v elsewhere.

    Args:
        x: (B, C, *S) with one to three spatial axes on a CUDA device, float32, float16 or bfloat16; channels-last and
            channels-first maps are read as they lie.
        weight, bias: (C,), float32 or the dtype of x.
        residual: like x, or None.
        conv_bias: (C,), what x lacks: it gets its gradient, zero, and changes nothing.
        slope: of the activation below zero; 1 for none.
        eps: added to the variance.

    Returns:
        like x, in its layout; statistics and arithmetic are float32.

    Raises:
        ValueError: another dtype or number of axes, 2^31 elements an image, or shapes that do not fit together.
    """
    if not 3 <= x.dim() <= 5 or x.dtype not in DTYPES:
        raise ValueError(
            f"The fused instance norm takes (B, C, *S) with one to three spatial axes in float32, float16 or bfloat16, "
            f"but got shape {tuple(x.shape)} in {str(x.dtype).removeprefix('torch.')}."
        )
    if x.shape[1:].numel() >= MAX_INSTANCE:
        raise ValueError(
            f"The fused instance norm takes maps of fewer than {MAX_INSTANCE} elements an image, but got shape "
            f"{tuple(x.shape)}; cut the image into smaller windows."
        )
    channels = (x.shape[1],)
    if weight.shape != channels or bias.shape != channels or (residual is not None and residual.shape != x.shape):
        raise ValueError(
            f"For an input of shape {tuple(x.shape)} weight and bias must be {channels} and the residual of its shape, "
            f"but they are {tuple(weight.shape)}, {tuple(bias.shape)} and "
            f"{None if residual is None else tuple(residual.shape)}."
        )
    return _function(x, weight, bias, residual, conv_bias, slope, eps)
