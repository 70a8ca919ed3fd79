"""SegResNet, UNETR and SwinUNETR: MONAI's networks with the arguments of U-Mamba's authors, behind the interface of
the planned networks.

They have one output, so deep supervision must be off, and a topology of their own, so the plan's features, kernels
and strides are not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import UNETR, SegResNet, SwinUNETR
from torch import nn

from src.models.topology import Size, check_input, crop, pad_to_multiple


class SingleOutputNetwork(nn.Module):
    """A network with one output under this project's interface: (B, in_channels, *S) -> logits (B, out_channels, *S).

    Inputs that `divisor` does not divide are padded with zeros at the far end and the logits cropped again.

    Args:
        network: maps (B, in_channels, *S) to (B, out_channels, *S) for S divisible by `divisor`.
        divisor: the same for every axis.
        fixed_patch_size: the one input size that works, or None.

    Raises:
        ValueError: deep supervision is asked for; on the forward pass as `src.models.topology.check_input`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        spatial_dims: int,
        in_channels: int,
        divisor: int,
        fixed_patch_size: Size | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError(
                f"{type(network).__name__} has one output: set deep_supervision=False (model.deep_supervision=false)."
            )
        self.network = network
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.required_divisor = (divisor,) * spatial_dims
        self.fixed_patch_size = fixed_patch_size
        self.deep_supervision = deep_supervision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_input(x, self.spatial_dims, self.in_channels, self.fixed_patch_size)
        return crop(self.network(pad_to_multiple(x, self.required_divisor)), x.shape[2:])


class PaddedSwinUNETR(SwinUNETR):
    """MONAI's SwinUNETR without its check of the input size.

    The check computes with NumPy, which torch.compile cannot trace (a graph break), and `SingleOutputNetwork` pads
    anyway.
    """

    def _check_input_size(self, spatial_shape: Sequence[int]) -> None:
        pass


def segresnet(
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int] | None = None,
    deep_supervision: bool = False,
    features_per_stage: Sequence[int] = (),
    kernel_sizes: Sequence[Sequence[int]] = (),
    strides: Sequence[Sequence[int]] = (),
    init_filters: int = 32,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
) -> SingleOutputNetwork:
    """SegResNet (Myronenko, arXiv 1810.11654) without its autoencoder branch; any input size. See
    `SingleOutputNetwork`."""
    network = SegResNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        init_filters=init_filters,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )
    return SingleOutputNetwork(
        network,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        divisor=2 ** len(blocks_up),
        deep_supervision=deep_supervision,
    )


def unetr(
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int],
    deep_supervision: bool = False,
    features_per_stage: Sequence[int] = (),
    kernel_sizes: Sequence[Sequence[int]] = (),
    strides: Sequence[Sequence[int]] = (),
    feature_size: int = 16,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
) -> SingleOutputNetwork:
    """UNETR (Hatamizadeh et al., arXiv 2103.10504); runs at `patch_size` alone, whose axes are multiples of 16."""
    if any(size % 16 for size in patch_size):
        rounded = tuple(-(-size // 16) * 16 for size in patch_size)
        raise ValueError(
            f"UNETR needs a patch of multiples of 16; got {tuple(patch_size)}. Round up to {rounded} "
            "(model.patch_multiple=16)."
        )
    network = UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=tuple(patch_size),
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        proj_type="conv",
        norm_name="instance",
        res_block=True,
        dropout_rate=0.0,
        spatial_dims=spatial_dims,
        qkv_bias=False,
    )
    for name, parameter in network.named_parameters():
        if (
            "cross_attn" in name
        ):  # the norms of a cross-attention MONAI builds but UNETR never calls: no gradient, DDP would wait for it
            parameter.requires_grad_(False)
    return SingleOutputNetwork(
        network,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        divisor=16,
        fixed_patch_size=tuple(patch_size),
        deep_supervision=deep_supervision,
    )


def swinunetr(
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int] | None = None,
    deep_supervision: bool = False,
    features_per_stage: Sequence[int] = (),
    kernel_sizes: Sequence[Sequence[int]] = (),
    strides: Sequence[Sequence[int]] = (),
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
) -> SingleOutputNetwork:
    """SwinUNETR, first version (Hatamizadeh et al., arXiv 2201.01266); any input size, padded to multiples of 32."""
    network = PaddedSwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        depths=tuple(depths),
        num_heads=tuple(num_heads),
        window_size=window_size,
        feature_size=feature_size,
        norm_name="instance",
        drop_rate=0.0,
        attn_drop_rate=0.0,
        dropout_path_rate=0.0,
        normalize=True,
        use_checkpoint=False,
        spatial_dims=spatial_dims,
        downsample="merging",
        use_v2=False,
    )
    return SingleOutputNetwork(
        network,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        divisor=32,
        deep_supervision=deep_supervision,
    )
