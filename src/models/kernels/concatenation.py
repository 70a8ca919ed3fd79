"""The concatenation of a decoder's map and its skip, which is formed again in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from umamba.models.kernels.choice import fused, is_channels_last
from umamba.models.kernels.formed import Recipe, kept, label
from umamba.models.mamba.kernels.eager import is_watched


def _join(x: Tensor, skip: Tensor) -> Tensor:
    """Channels-last maps as rows of channels, which torch concatenates in one fast kernel; of volumes it would copy one
    after the other.
    """
    if not (is_channels_last(x) and is_channels_last(skip)):
        return torch.cat((x, skip), dim=1)
    rows = torch.cat([t.movedim(1, -1).flatten(0, -2) for t in (x, skip)], dim=1)
    return rows.view(x.shape[0], *x.shape[2:], -1).movedim(-1, 1)


class _Joined(Recipe):
    """From one map, and one or what it is formed from."""

    def __init__(self, skip: Recipe | None) -> None:
        self.skip = skip

    def make(self, tensors: tuple[Tensor, ...]) -> Tensor:
        x, *rest = tensors
        # The skip's own turn comes much later: until then its memory is worth more than a pass over it
        skip = rest[0] if self.skip is None else self.skip.form(tuple(rest), keep=False)
        return _join(x, skip)


class _Concatenation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor, recipe: Recipe) -> Tensor:
        ctx.recipe, ctx.channels = recipe, (x.shape[1], skip.shape[1])
        return _join(x, skip)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.recipe.let_go()
        if ctx.recipe.skip is not None:
            ctx.recipe.skip.uses -= 1
        return *grad.split(ctx.channels, dim=1), None


def concatenate(x: Tensor, skip: Tensor) -> Tensor:
    """(B, C, *S) and (B, C', *S) -> (B, C + C', *S)."""
    if not fused(x) or is_watched(x):
        return torch.cat((x, skip), dim=1)
    if not torch.is_grad_enabled():
        return _join(x, skip)
    source = kept(skip)
    recipe = _Joined(source.recipe)
    y = _Concatenation.apply(x, skip, recipe)
    label(y, recipe, (x, *source.tensors))
    return y
