"""torch's convolutions, instance norms and average pooling, with the kernels that are faster where there are any.

Parameters, their names and what is computed are torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from umamba.models.kernels.choice import fused, is_channels_last
from umamba.models.kernels.convolution import convolve, convolve_planes
from umamba.models.kernels.pooling import mean_of_boxes
from umamba.models.topology import Size

LEAKY_SLOPE = 0.01  # nnU-Net's; also the `a` of the Kaiming initialisation
CONV_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
AVERAGE_POOL: dict[int, Callable[..., torch.Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}


class _Conv(nn.modules.conv._ConvNd):
    """A convolution that can leave its bias to what comes next.

    It forms a norm's output again for its backward pass instead of keeping it.
    """

    def forward(self, x: torch.Tensor, add_bias: bool = True) -> torch.Tensor:
        bias = self.bias if add_bias else None
        y = convolve(self, x, bias)
        if y is None:
            y = convolve_planes(self, x, bias)
        return self._conv_forward(x, self.weight, bias) if y is None else y


class Conv2d(_Conv, nn.Conv2d):
    """(B, C, *S) with two axes in S; see `_Conv`."""


class Conv3d(_Conv, nn.Conv3d):
    """(B, C, *S) with three axes in S; see `_Conv`."""


class _ConvTranspose(nn.modules.conv._ConvTransposeNd):
    """A transposed convolution that can leave its bias to what comes next.

    It forms a norm's output again for its backward pass, as `_Conv` does.
    """

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None, add_bias: bool = True) -> torch.Tensor:
        bias = self.bias if add_bias else None
        y = convolve(self, input, bias) if output_size is None else None
        if y is None and output_size is None:
            y = convolve_planes(self, input, bias)
        if y is not None:
            return y
        if add_bias:
            return super().forward(input, output_size)
        transposed = CONV_TRANSPOSED[self.weight.dim() - 2]
        settings = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return transposed(input, self.weight, None, *settings)


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """(B, C, *S) with two axes in S; see `_ConvTranspose`."""


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """(B, C, *S) with three axes in S; see `_ConvTranspose`."""


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    """Instance norm that also does what follows it, as one operation where `fused` says so."""

    def forward(
        self,
        x: torch.Tensor,
        conv_bias: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        act: nn.LeakyReLU | None = None,
    ) -> torch.Tensor:
        """act(norm(x + conv_bias) + residual)

        Args:
            x: (B, C, *S).
            conv_bias: (C,), the bias of the convolution before, if it was left out; only where `fused` says so. The
                norm takes away what is equal in all positions, so it changes nothing, and its gradient is zero.
            residual: like x.
            act: what comes last.
        """
        if fused(x):
            from umamba.models.kernels.norm_act import norm_act  # imports Triton, which a CPU installation may lack

            slope = 1.0 if act is None else act.negative_slope
            return norm_act(x, self.weight, self.bias, residual, conv_bias, slope, self.eps)
        y = super().forward(x)
        if residual is not None:
            y = y + residual
        return y if act is None else act(y)


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """(B, C, *S) with two axes in S; see `_InstanceNorm`."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """(B, C, *S) with three axes in S; see `_InstanceNorm`."""


CONVOLUTIONS = (_Conv, _ConvTranspose)
CONV: dict[int, Callable[..., Conv2d | Conv3d]] = {2: Conv2d, 3: Conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., nn.Module]] = {2: ConvTranspose2d, 3: ConvTranspose3d}
INSTANCE_NORM: dict[int, Callable[..., InstanceNorm2d | InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}


def activation() -> nn.LeakyReLU:
    """The networks' activation, in place."""
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


class AveragePool(nn.Module):
    """Mean over boxes of `stride` positions: (B, C, *S) -> (B, C, *(S // stride)), in the layout of the input."""

    def __init__(self, stride: Size) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The sizes come last: torch.export of any size cannot know whether these divide them, and need not on the CPU
        if (
            x.is_cuda
            and is_channels_last(x)
            and not any(size % s for size, s in zip(x.shape[2:], self.stride, strict=True))
        ):
            return mean_of_boxes(x, self.stride)  # torch's own pooling of volumes would turn the map to channels-first
        return AVERAGE_POOL[len(self.stride)](x, self.stride, self.stride)
