"""Convolution blocks the U-Nets are built from; one code path for 2D and 3D.

Origins: the plain block of nnU-Net (Isensee et al., Nature Methods 2021), the pre-planned residual block of nnU-Net's
residual encoder with the average-pooled shortcut of ResNet-D (He et al., arXiv 1812.01187, section 4.2), and the
residual block with a strided 1x1 shortcut of U-Mamba's later code. All use InstanceNorm (eps 1e-5, affine) and
LeakyReLU (slope 0.01); padding is kernel // 2, so odd kernels keep the shape at stride 1.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from umamba.models.kernels.choice import fused
from umamba.models.layers import (
    CONV,
    CONV_TRANSPOSE,
    INSTANCE_NORM,
    LEAKY_SLOPE,
    AveragePool,
    Conv2d,
    Conv3d,
    InstanceNorm2d,
    InstanceNorm3d,
    activation,
)
from umamba.models.mamba.kernels.eager import is_watched
from umamba.models.topology import Size

SHARED_OUT = 2**12  # positions of a map, above which several programs of a norm share it out

Shortcut = Literal["pool", "conv"]
Upsampling = Literal["transposed", "nearest"]


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
    if not fused(x) or not torch.is_grad_enabled():  # first: torch.export of any size cannot compare sizes
        return False
    return x.shape[2:].numel() > SHARED_OUT * math.prod(stride) and not is_watched(x)


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
