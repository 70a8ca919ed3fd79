"""Convolution blocks the U-Nets are built from; one code path for 2D and 3D.

Origins: the plain block of nnU-Net (Isensee et al., Nature Methods 2021), the pre-planned residual block of nnU-Net's
residual encoder with the average-pooled shortcut of ResNet-D (He et al., arXiv 1812.01187, section 4.2), and the
residual block with a strided 1x1 shortcut of U-Mamba's later code. All use InstanceNorm (eps 1e-5, affine) and
LeakyReLU (slope 0.01); padding is kernel // 2, so odd kernels keep the shape at stride 1.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from umamba.models.kernels.choice import fused, is_channels_last
from umamba.models.kernels.convolution import convolve, convolve_planes
from umamba.models.kernels.pooling import mean_of_boxes
from umamba.models.mamba.kernels.eager import is_watched
from umamba.models.topology import Size

SHARED_OUT = 2**12  # positions of a map, above which several programs of a norm share it out
LEAKY_SLOPE = 0.01  # nnU-Net's; also the `a` of the Kaiming initialisation
CONV_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
AVERAGE_POOL: dict[int, Callable[..., torch.Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}

Shortcut = Literal["pool", "conv"]
Upsampling = Literal["transposed", "nearest"]


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
    pass


class Conv3d(_Conv, nn.Conv3d):
    pass


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
    pass


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    pass


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
    pass


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    pass


CONVOLUTIONS = (_Conv, _ConvTranspose)
CONV: dict[int, Callable[..., Conv2d | Conv3d]] = {2: Conv2d, 3: Conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., nn.Module]] = {2: ConvTranspose2d, 3: ConvTranspose3d}
INSTANCE_NORM: dict[int, Callable[..., InstanceNorm2d | InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}


def activation() -> nn.LeakyReLU:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


class AveragePool(nn.Module):
    """Mean over boxes of `stride` positions: (B, C, *S) -> (B, C, *(S // stride)), in the layout of the input."""

    def __init__(self, stride: Size) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = not any(size % s for size, s in zip(x.shape[2:], self.stride, strict=True))
        if x.is_cuda and whole and is_channels_last(x):
            return mean_of_boxes(x, self.stride)  # torch's own pooling of volumes would turn the map to channels-first
        return AVERAGE_POOL[len(self.stride)](x, self.stride, self.stride)


class ConvBlock(nn.Sequential):
    """Convolution, instance norm and, unless `act=False`, LeakyReLU: (B, C_in, *S) -> (B, C_out, *(S // stride))."""

    conv: Conv2d | Conv3d
    norm: InstanceNorm2d | InstanceNorm3d

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        *,
        bias: bool = True,
        act: bool = True,
    ) -> None:
        padding = tuple(k // 2 for k in kernel_size)
        conv = CONV[spatial_dims](in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        norm = INSTANCE_NORM[spatial_dims](out_channels, eps=1e-5, affine=True)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=norm)
        if act:
            layers["act"] = activation()
        super().__init__(layers)

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, act: nn.LeakyReLU | None = None
    ) -> torch.Tensor:
        """The block's output; a residual and an activation of the caller's are had in the same pass."""
        in_one = fused(x)
        y = self.conv(x, add_bias=not in_one)
        return self.norm(y, self.conv.bias if in_one else None, residual, getattr(self, "act", act))


def norms_in_one(x: torch.Tensor, stride: Size) -> bool:
    """Whether both norms of a residual block with a projection are one operation, for which its maps are large enough.

    Not without gradients, where the search for a layer that is not finite looks at what each gives.
    """
    large = x.shape[2:].numel() > SHARED_OUT * math.prod(stride)
    return large and fused(x) and torch.is_grad_enabled() and not is_watched(x)


class ResidualBlock(nn.Module):
    """conv - norm - act - conv - norm, plus a shortcut, then act; the stride is in the first convolution.

    Args:
        shortcut: "pool": the identity where shape and channels stay, else average pooling by the stride (if any) and
            a 1x1 convolution without bias + norm (if the channels change). "conv": always a strided 1x1 convolution
            with bias, no norm.
    """

    act: nn.LeakyReLU

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        one = (1,) * spatial_dims
        self.conv1 = ConvBlock(spatial_dims, in_channels, out_channels, kernel_size, stride)
        self.conv2 = ConvBlock(spatial_dims, out_channels, out_channels, kernel_size, one, act=False)
        if shortcut == "conv":
            self.shortcut: nn.Module = CONV[spatial_dims](in_channels, out_channels, one, stride)
        else:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if stride != one:
                layers["pool"] = AveragePool(stride)
            if in_channels != out_channels:
                layers["projection"] = ConvBlock(
                    spatial_dims, in_channels, out_channels, one, one, bias=False, act=False
                )
            self.shortcut = nn.Sequential(layers)  # without layers: the identity
        self.act = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projection = getattr(self.shortcut, "projection", None)
        if projection is None or not norms_in_one(x, self.conv1.conv.stride):
            return self.conv2(self.conv1(x), self.shortcut(x), self.act)
        from umamba.models.kernels.norm_act import norms_act  # imports Triton, as `fused` has

        y = self.conv2.conv(self.conv1(x), add_bias=False)
        pool = getattr(self.shortcut, "pool", None)
        r = projection.conv(x if pool is None else pool(x))
        norm, r_norm = self.conv2.norm, projection.norm
        weights = norm.weight, norm.bias, self.conv2.conv.bias, r, r_norm.weight, r_norm.bias
        return norms_act(y, *weights, self.act.negative_slope, norm.eps)


def conv_stage(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Size, stride: Size, num_blocks: int
) -> nn.Sequential:
    """`num_blocks` plain blocks in a row, the first with the stride."""
    one = (1,) * spatial_dims
    return nn.Sequential(
        ConvBlock(spatial_dims, in_channels, out_channels, kernel_size, stride),
        *(ConvBlock(spatial_dims, out_channels, out_channels, kernel_size, one) for _ in range(num_blocks - 1)),
    )


def residual_stage(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size,
    num_blocks: int,
    shortcut: Shortcut,
) -> nn.Sequential:
    """`num_blocks` residual blocks in a row; stride, change of channels and the kind of shortcut concern the first."""
    one = (1,) * spatial_dims
    return nn.Sequential(
        ResidualBlock(spatial_dims, in_channels, out_channels, kernel_size, stride, shortcut),
        *(
            ResidualBlock(spatial_dims, out_channels, out_channels, kernel_size, one, "pool")
            for _ in range(num_blocks - 1)
        ),
    )


def upsampling(spatial_dims: int, in_channels: int, out_channels: int, stride: Size, kind: Upsampling) -> nn.Module:
    """Undoes a stage's stride: (B, C_in, *S) -> (B, C_out, *(S * stride)).

    "transposed": a transposed convolution with kernel = stride; "nearest": nearest interpolation, then a 1x1
    convolution.
    """
    if kind == "transposed":
        return CONV_TRANSPOSE[spatial_dims](in_channels, out_channels, stride, stride)
    enlarge = nn.Upsample(scale_factor=tuple(float(s) for s in stride), mode="nearest")
    return nn.Sequential(OrderedDict(enlarge=enlarge, conv=CONV[spatial_dims](in_channels, out_channels, 1)))


def initialize(network: nn.Module, *, zero_init_residual: bool = False) -> None:
    """Give a network nnU-Net's initial weights, in place.

    Convolutions and transposed convolutions are Kaiming-normal (a = 0.01) with zero bias; Linear and Conv1d layers
    (those of Mamba) keep their own. `zero_init_residual` also zeroes weight and bias of the
    last norm of every residual block, so that each block starts as its shortcut.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif zero_init_residual and isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
            nn.init.zeros_(module.conv2.norm.bias)
