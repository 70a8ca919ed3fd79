"""The mean over boxes of a channels-last map, in its layout both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from umamba.models.mamba.kernels.eager import is_watched

WIDE = torch.complex128  # the largest element that torch copies: 16 bytes, so several channels at once


def _mean(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """One reduction of memory, where the strides divide the axes."""
    y = x.movedim(1, -1)  # (B, *S, C)
    for axis, step in reversed(list(enumerate(stride, start=1))):
        y = y.unflatten(axis, (-1, step))  # (B, S1 // s1, s1, S2 // s2, s2, ..., C)
    return y.mean(tuple(range(2, y.dim() - 1, 2))).movedim(-1, 1)


def spread(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Each value of (B, C, *S) to all of its box, (B, C, *(S * stride)), channels-last."""
    y = x.movedim(1, -1).contiguous()  # (B, *S, C)
    narrow = y.dtype
    if not y.requires_grad and y.shape[-1] * y.itemsize % WIDE.itemsize == 0 and y.data_ptr() % WIDE.itemsize == 0:
        y = y.view(WIDE)  # that every element finds its place costs more than its bytes
    full = [y.shape[0], *(size * step for size, step in zip(y.shape[1:-1], stride, strict=True)), y.shape[-1]]
    boxes = list(y.shape)
    for axis, step in reversed(list(enumerate(stride, start=1))):
        y = y.unsqueeze(axis + 1)  # (B, S1, 1, S2, 1, ..., C)
        boxes.insert(axis + 1, step)
    return y.expand(boxes).reshape(full).view(narrow).movedim(-1, 1)


class _MeanOfBoxes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, ...]) -> Tensor:
        ctx.stride = stride
        return _mean(x, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return spread(grad / torch.Size(ctx.stride).numel(), ctx.stride), None


def mean_of_boxes(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """(B, C, *S) -> (B, C, *(S // stride)), both channels-last, where the strides divide the axes."""
    if is_watched(x) or not torch.is_grad_enabled():
        return _mean(x, stride)
    return _MeanOfBoxes.apply(x, stride)
