"""Convolutions that form their input again in the backward pass, where its recipe is known, and those by planes.

A kernel that is one voxel deep goes over a channels-last volume as a 2D kernel over its planes, which are the same
memory: of 2D kernels cuDNN knows more, and finds the fast ones without trying them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umamba.models.kernels.choice import fused
from umamba.models.kernels.formed import Kept, kept


class Settings(NamedTuple):
    """What a convolution is told, in the order of torch.convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, layer: nn.modules.conv._ConvNd) -> Settings:
        """Those of a layer, whose padding is a number for every axis."""
        return cls(
            stride=layer.stride,
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,
            transposed=layer.transposed,
            output_padding=layer.output_padding,
            groups=layer.groups,
        )

    def in_planes(self, x: Tensor, weight: Tensor) -> Settings | None:
        """Of the 2D convolution of the planes of `x` that gives the same, if there is one."""
        # Of a single voxel nothing is gained, and the gradient of its weight would have other strides than the weight
        if weight.dim() != 5 or weight.shape[2] != 1 or weight.shape[3:].numel() == 1:
            return None
        if not x.movedim(1, -1).is_contiguous():
            return None
        if self.stride[0] != 1 or self.padding[0] or self.output_padding[0]:
            return None
        rest = self.stride[1:], self.padding[1:], self.dilation[1:]
        return Settings(*rest, self.transposed, self.output_padding[1:], self.groups)


def planes(x: Tensor) -> Tensor:
    """(B, C, D, H, W), channels-last, as (B * D, C, H, W): the same memory."""
    return x.movedim(2, 1).flatten(0, 1)


def volumes(x: Tensor, batch: int) -> Tensor:
    """What `planes` was made of."""
    return x.unflatten(0, (batch, -1)).movedim(1, 2)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings, source: Kept) -> Tensor:
        ctx.save_for_backward(weight, *source.tensors)
        ctx.recipe, ctx.settings = source.recipe, settings
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        flat = settings.in_planes(x, weight)
        if flat is None:
            return torch.convolution(x, weight, bias, *settings)
        return volumes(torch.convolution(planes(x), weight.squeeze(2), bias, *flat), len(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable would leave out what goes through the inputs
            raise RuntimeError(
                "A convolution of a fused instance norm has no second derivative, which create_graph=True asks for; "
                "use the CPU for it."
            )
        weight, *tensors = ctx.saved_tensors
        x = ctx.recipe.use(tuple(tensors))
        flat = ctx.settings.in_planes(x, weight)
        needed = ctx.needs_input_grad
        if flat is None or not grad.movedim(1, -1).is_contiguous():
            maps = [x]
            del x
            return *_gradients(grad, maps, weight, ctx.bias_sizes, ctx.settings, needed), None, None
        batch, maps = len(x), [planes(x)]
        del x
        grad_x, grad_weight, grad_bias = _gradients(planes(grad), maps, weight.squeeze(2), ctx.bias_sizes, flat, needed)
        grad_x = None if grad_x is None else volumes(grad_x, batch)
        return grad_x, None if grad_weight is None else grad_weight[:, :, None], grad_bias, None, None


def _gradients(
    grad: Tensor,
    maps: list[Tensor],
    weight: Tensor,
    bias_sizes: list[int] | None,
    settings: Settings,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of input, weight and bias; `maps` holds the input, and is empty afterwards."""
    wants_x, *wanted = needed[:3]
    x = maps.pop()
    call = weight, bias_sizes, *settings
    # The input's gradient follows from the input's shape and layout: where the output's gradient has both, it
    # stands in for the map, which gives its memory back before. Any other would have cuDNN turn the maps.
    apart = wants_x and grad.shape == x.shape and grad.stride() == x.stride()
    grad_x, *others = torch.ops.aten.convolution_backward(grad, x, *call, (wants_x and not apart, *wanted))
    if apart:
        del x
        grad_x, *_ = torch.ops.aten.convolution_backward(grad, grad, *call, (True, False, False))
    return grad_x, *others


def convolve(layer: nn.modules.conv._ConvNd, x: Tensor, bias: Tensor | None) -> Tensor | None:
    """What a convolution layer makes of `x` if `x` can be formed again, else None: then the layer does as ever.

    Args:
        layer: one of torch.nn's convolutions, transposed or not.
        x: (B, C, *S).
        bias: the layer's, or None to leave it out.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    weight, device = layer.weight, x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if x.dtype != dtype or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    source = kept(x)
    if source.recipe is None:
        return None
    return _Convolution.apply(x, weight.to(dtype), None if bias is None else bias.to(dtype), Settings.of(layer), source)


def convolve_planes(layer: nn.modules.conv._ConvNd, x: Tensor, bias: Tensor | None) -> Tensor | None:
    """What a convolution layer makes of `x` by its planes, if that gives the same and the kernels run, else None."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or not fused(x):
        return None
    flat = Settings.of(layer).in_planes(x, layer.weight)
    if flat is None:
        return None
    if flat.transposed:
        settings = flat.stride, flat.padding, flat.output_padding, flat.groups, flat.dilation
        y = F.conv_transpose2d(planes(x), layer.weight.squeeze(2), bias, *settings)
    else:
        y = F.conv2d(planes(x), layer.weight.squeeze(2), bias, flat.stride, flat.padding, flat.dilation, flat.groups)
    return volumes(y, len(x))
