"""SegResNet, UNETR and SwinUNETR from MONAI, with the arguments of U-Mamba's authors.

They stand behind the interface of the planned networks. They have one output, so deep supervision must be off, and a
topology of their own: of a `NetworkSpec` they use axes, channels and patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import UNETR, SegResNet, SwinUNETR
from torch import nn

from umamba.models.spec import NetworkSpec
from umamba.models.topology import Size, check_input, crop, pad_to_multiple


class SingleOutputNetwork(nn.Module):
    """A network with one output under this project's interface: (B, in_channels, *S) -> logits (B, out_channels, *S).

    Inputs that `divisor` does not divide are padded with zeros at the far end and the logits cropped again.

    Args:
        network: maps (B, in_channels, *S) to (B, out_channels, *S) for S divisible by `divisor`.
        spec: see `NetworkSpec`.
        divisor: the same for every axis.
        head: what the names of the weights of its last layer, which knows the classes, begin with.
        fixed_patch_size: the one input size that works, or None.

    Raises:
        ValueError: deep supervision is asked for; on the forward pass as `umamba.models.topology.check_input`.
    """

    follows_topology = False  # of the plan: features, kernels and strides are MONAI's

    def __init__(
        self, network: nn.Module, spec: NetworkSpec, *, divisor: int, head: str, fixed_patch_size: Size | None = None
    ) -> None:
        super().__init__()
        if spec.deep_supervision:
            raise ValueError(
                f"{type(network).__name__} has one output: set deep_supervision=False (model.deep_supervision=false)."
            )
        self.network = network
        self.heads_begin = f"network.{head}"
        self.spatial_dims = spec.spatial_dims
        self.in_channels = spec.in_channels
        self.required_divisor = (divisor,) * spec.spatial_dims
        self.fixed_patch_size = fixed_patch_size
        self.deep_supervision = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_input(x, self.spatial_dims, self.in_channels, self.fixed_patch_size)
        return crop(self.network(pad_to_multiple(x, self.required_divisor)), x.shape[2:])


class PaddedSwinUNETR(SwinUNETR):
    """MONAI's SwinUNETR without its check of the input size.

    The check computes with NumPy, which torch.compile cannot trace (a graph break), and `SingleOutputNetwork` pads
    anyway.
    """

    any_size_graph = False  # its windows and their masks keep torch.export's arithmetic of sizes busy without end

    def _check_input_size(self, spatial_shape: Sequence[int]) -> None:
        pass


def segresnet(
    *,
    init_filters: int = 32,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    **spec: Any,
) -> SingleOutputNetwork:
    """SegResNet (Myronenko, arXiv 1810.11654) without its autoencoder branch; any input size.

    Args:
        init_filters: Channels of the first stage; they double at every lower resolution.
        blocks_down: Residual blocks of each stage of the encoder.
        blocks_up: Residual blocks of each stage of the decoder, one stage fewer.
        **spec: Fields of `umamba.models.spec.NetworkSpec`.

    Returns:
        (B, in_channels, *S) -> (B, out_channels, *S); padded to multiples of 2 ** len(blocks_up) within.
    """
    s = _spec(spec)
    network = SegResNet(
        spatial_dims=s.spatial_dims,
        in_channels=s.in_channels,
        out_channels=s.out_channels,
        init_filters=init_filters,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )
    return SingleOutputNetwork(network, s, divisor=2 ** len(blocks_up), head="conv_final.2.")


def unetr(
    *, feature_size: int = 16, hidden_size: int = 768, mlp_dim: int = 3072, num_heads: int = 12, **spec: Any
) -> SingleOutputNetwork:
    """UNETR (Hatamizadeh et al., arXiv 2103.10504); runs at `patch_size` alone, whose axes are multiples of 16.

    Args:
        feature_size: Channels of the decoder's highest resolution.
        hidden_size: Width of a token.
        mlp_dim: Width of the transformer's feed-forward layers.
        num_heads: Heads of its attention; they divide `hidden_size`.
        **spec: Fields of `umamba.models.spec.NetworkSpec`, `patch_size` among them.

    Returns:
        (B, in_channels, *patch_size) -> (B, out_channels, *patch_size).

    Raises:
        ValueError: There is no `patch_size`, or it has an axis that is no multiple of 16.
    """
    s = _spec(spec)
    if s.patch_size is None:
        raise ValueError("UNETR needs patch_size: its position embedding exists for one input size.")
    patch_size = tuple(s.patch_size)
    if any(size % 16 for size in patch_size):
        rounded = tuple(-(-size // 16) * 16 for size in patch_size)
        raise ValueError(
            f"UNETR needs a patch of multiples of 16; got {patch_size}. Round up to {rounded} "
            "(model.patch_multiple=16)."
        )
    network = UNETR(
        in_channels=s.in_channels,
        out_channels=s.out_channels,
        img_size=patch_size,
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        proj_type="conv",
        norm_name="instance",
        res_block=True,
        dropout_rate=0.0,
        spatial_dims=s.spatial_dims,
        qkv_bias=False,
    )
    for name, parameter in network.named_parameters():
        # The norms of a cross-attention that MONAI builds but UNETR never calls: no gradient, DDP would wait for it
        if "cross_attn" in name:
            parameter.requires_grad_(False)
    return SingleOutputNetwork(network, s, divisor=16, head="out.", fixed_patch_size=patch_size)


def swinunetr(
    *,
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
    **spec: Any,
) -> SingleOutputNetwork:
    """SwinUNETR, first version (Hatamizadeh et al., arXiv 2201.01266); any input size, padded to multiples of 32.

    Args:
        feature_size: Channels of the first stage; they double at every lower resolution.
        depths: Transformer layers of each stage.
        num_heads: Heads of each stage's attention.
        window_size: Tokens along each axis of a window.
        **spec: Fields of `umamba.models.spec.NetworkSpec`.

    Returns:
        (B, in_channels, *S) -> (B, out_channels, *S).
    """
    s = _spec(spec)
    network = PaddedSwinUNETR(
        in_channels=s.in_channels,
        out_channels=s.out_channels,
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
        spatial_dims=s.spatial_dims,
        downsample="merging",
        use_v2=False,
    )
    return SingleOutputNetwork(network, s, divisor=32, head="out.")


def _spec(keywords: dict[str, Any]) -> NetworkSpec:
    """The fields as a spec; deep supervision is off unless it is asked for, since these networks have one output."""
    return NetworkSpec(**({"deep_supervision": False} | keywords))
