"""The concatenation of a decoder's map and its skip, which is formed again in the backward pass.

The bias of the convolution that made the map is added on the way, and summed as the gradient is parted: alone each of
these takes a pass over memory, and a part that lies among the other's channels is slow to add and to convolve.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from umamba.models.kernels.choice import fused, is_channels_last
from umamba.models.kernels.formed import Recipe, kept, label
from umamba.models.mamba.kernels.eager import is_watched

MAX_ROWS = 2**31 - 2**12  # positions of a batch: the kernels count them in 32 bits


def _in_kernels(x: Tensor, skip: Tensor) -> bool:
    alike = x.dtype == skip.dtype and x.numel() // x.shape[1] < MAX_ROWS
    return alike and is_channels_last(x) and is_channels_last(skip)


def _join(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    if _in_kernels(x, skip):
        from umamba.models.kernels.concatenation_launch import joined  # imports Triton, as `fused` has

        return joined(x, skip, bias)
    if bias is not None:
        x = x + bias.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
    return torch.cat((x, skip), dim=1)


class _Joined(Recipe):
    """From one map, its bias if there is one, and the other or what it is formed from."""

    def __init__(self, biased: bool, skip: Recipe | None) -> None:
        self.biased, self.skip = biased, skip

    def make(self, tensors: tuple[Tensor, ...]) -> Tensor:
        x, *rest = tensors
        bias = rest.pop(0) if self.biased else None
        # The skip's own turn comes much later: until then its memory is worth more than a pass over it
        skip = rest[0] if self.skip is None else self.skip.form(tuple(rest), keep=False)
        return _join(x, skip, bias)


class _Concatenation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor, bias: Tensor | None, recipe: Recipe) -> Tensor:
        ctx.save_for_backward(bias)
        ctx.recipe, ctx.channels, ctx.in_kernels = recipe, (x.shape[1], skip.shape[1]), _in_kernels(x, skip)
        return _join(x, skip, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (bias,) = ctx.saved_tensors
        ctx.recipe.let_go()
        if ctx.recipe.skip is not None:
            ctx.recipe.skip.uses -= 1
        if ctx.in_kernels:
            from umamba.models.kernels.concatenation_launch import parted

            return *parted(grad, ctx.channels[0], bias), None
        grad_x, grad_skip = grad.split(ctx.channels, dim=1)
        axes = (0, *range(2, grad.dim()))
        return grad_x, grad_skip, None if bias is None else grad_x.sum(axes, dtype=torch.float32).to(bias.dtype), None


def adds_bias(x: Tensor) -> bool:
    """Whether `concatenate` is to add the bias of the convolution of this map."""
    return fused(x) and not is_watched(x)


def concatenate(x: Tensor, skip: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, C, *S) plus bias (C,), which only comes where `adds_bias` says so, and (B, C', *S) -> (B, C + C', *S)."""
    if not adds_bias(x):
        return torch.cat((x, skip), dim=1)
    if not torch.is_grad_enabled():
        return _join(x, skip, bias)
    source = kept(skip)
    recipe = _Joined(bias is not None, source.recipe)
    y = _Concatenation.apply(x, skip, bias, recipe)
    label(y, recipe, (x, *([] if bias is None else [bias]), *source.tensors))
    return y
