"""A convolution that forms its input again in the backward pass, where the input's recipe is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from umamba.models.kernels.formed import Kept, kept


class Settings(NamedTuple):
    """Of a convolution, in the order of torch.convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings, source: Kept) -> Tensor:
        ctx.save_for_backward(weight, *source.tensors)
        ctx.recipe, ctx.settings = source.recipe, settings
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return torch.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable would leave out what goes through the inputs
            raise RuntimeError(
                "A convolution of a fused instance norm has no second derivative, which create_graph=True asks for; "
                "use the CPU for it."
            )
        weight, *tensors = ctx.saved_tensors
        wants_x, *wanted = ctx.needs_input_grad[:3]
        x = ctx.recipe.use(tuple(tensors))
        call = weight, ctx.bias_sizes, *ctx.settings
        # The input's gradient follows from the input's shape and layout: where the output's gradient has both, it
        # stands in for the map, which gives its memory back before. Any other would have cuDNN turn the maps.
        apart = wants_x and grad.shape == x.shape and grad.stride() == x.stride()
        grad_x, *others = torch.ops.aten.convolution_backward(grad, x, *call, (wants_x and not apart, *wanted))
        if apart:
            del x
            grad_x, *_ = torch.ops.aten.convolution_backward(grad, grad, *call, (True, False, False))
        return grad_x, *others, None, None


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
    settings = Settings(
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        transposed=layer.transposed,
        output_padding=layer.output_padding,
        groups=layer.groups,
    )
    return _Convolution.apply(x, weight.to(dtype), None if bias is None else bias.to(dtype), settings, source)
