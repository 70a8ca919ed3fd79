"""U-Mamba (Ma et al., arXiv 2401.04722): one class for 2D and 3D, for Bot and Enc, and for the control without Mamba.

Use alone, needing torch only::

    import torch
    from umamba.models.umamba import UMamba

    network = UMamba(
        spatial_dims=3, in_channels=1, out_channels=14,
        features_per_stage=(32, 64, 128, 256, 320), kernel_sizes=(3,) * 5, strides=(1, 2, 2, 2, 2),
        mamba="encoder", deep_supervision=False,
    )
    logits = network(torch.randn(1, 1, 64, 96, 96))  # (1, 14, 64, 96, 96)

`variant="paper"` is the network of the text and the parameter counts (the authors' code of January 2024): stem of one
convolution, ResNet-D shortcuts, transposed convolutions, two residual blocks everywhere. `variant="repo"` is what the
authors' code builds since March 2024 and what its checkpoints hold: strided 1x1 shortcuts, nearest upsampling, one
block in the deep half, channel tokens in Enc, and in 2D no skip at full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from umamba.models.blocks import ConvBlock, Shortcut, initialize, residual_stage, upsampling
from umamba.models.mamba.layer import MambaLayer, Mixer
from umamba.models.mamba.orders import Order
from umamba.models.spec import NetworkSpec
from umamba.models.topology import Size, decoder_order
from umamba.models.unet import UNet

Variant = Literal["paper", "repo"]
Placement = Literal["encoder", "bottleneck", "none"] | Sequence[int]


class UMamba(UNet):
    """U-shaped residual network whose encoder stages end in a Mamba layer that replaces the feature map (and the skip).

    Args:
        mamba: "encoder" (U-Mamba_Enc), "bottleneck" (U-Mamba_Bot), "none" (the matched control), or the stages that
            get a layer. With "encoder" the repo variant does as the authors' code: in 2D every second stage, and
            channel tokens where prod(size) <= channels; stages given by number read spatial tokens.
        variant: "paper" or "repo", see the module.
        mixer, order: parts of the Mamba layer, see `MambaLayer`; mixer "none" leaves the layers out.
        zero_init_residual: start each residual block as its shortcut; None does as the authors (paper Enc does, the
            others do not).
        **spec: fields of `NetworkSpec`; patch_size is needed for variant "repo" with mamba "encoder", whose channel
            tokens have the width of the patch, so that its weights fit no other size.

    Raises:
        ValueError: topology or patch that does not fit together, unknown variant, placement, mixer or order, no
            patch_size where it is needed.
    """

    def __init__(
        self,
        *,
        mamba: Placement = "encoder",
        variant: Variant = "paper",
        mixer: str | Mixer = "s6",
        order: str | Order = "raster",
        zero_init_residual: bool | None = None,
        **spec: Any,
    ) -> None:
        s = NetworkSpec(**spec)
        d, (f, kernels, strides) = s.spatial_dims, s.stages()
        if variant not in ("paper", "repo"):
            raise ValueError(f"variant is {variant!r}; allowed: 'paper', 'repo'.")
        repo = variant == "repo"
        stages = () if mixer == "none" else mamba_stages(mamba, len(f), every_second=repo and d == 2)
        widths: dict[int, int | None] = dict.fromkeys(stages)  # of channel tokens; None: spatial tokens
        if repo and mamba == "encoder" and stages:
            counts = {stage: _num_tokens(s.patch_size, strides, stage) for stage in stages}
            widths = {stage: count if count <= f[stage] else None for stage, count in counts.items()}

        def mamba_layer(stage: int) -> MambaLayer:
            tokens = widths[stage]
            width = f[stage] if tokens is None else tokens
            return MambaLayer(width, spatial_dims=d, mixer=mixer, order=order, channel_tokens=tokens is not None)

        def encoder_stage(stage: int) -> nn.Module:
            channels = f[max(stage - 1, 0)], f[stage]
            blocks = residual_stage(d, *channels, kernels[stage], strides[stage], encoder_blocks[stage], shortcut)
            if stage in widths:
                blocks.add_module("mamba", mamba_layer(stage))
            return blocks

        def decoder_stage(stage: int, num_blocks: int) -> nn.Module:
            in_features = f[stage] if stage == 0 and not skip_at_full_resolution else 2 * f[stage]
            return residual_stage(d, in_features, f[stage], kernels[stage], one, num_blocks, shortcut)

        one = (1,) * d
        shortcut: Shortcut = "conv" if repo else "pool"
        skip_at_full_resolution = not (repo and d == 2)
        encoder_blocks, decoder_blocks = blocks_per_stage(len(f), variant)
        if repo:
            stem = residual_stage(d, s.in_channels, f[0], kernels[0], one, encoder_blocks[0], shortcut)
        else:
            stem = ConvBlock(d, s.in_channels, f[0], kernels[0], one)
        super().__init__(
            s,
            stem=stem,
            encoder_stages=[encoder_stage(i) for i in range(len(f))],
            upsamples=[
                upsampling(d, f[i + 1], f[i], strides[i + 1], "nearest" if repo else "transposed")
                for i in decoder_order(f)
            ],
            decoder_stages=[decoder_stage(i, n) for i, n in zip(decoder_order(f), decoder_blocks, strict=True)],
            skip_at_full_resolution=skip_at_full_resolution,
            fixed_patch_size=tuple(s.patch_size or ()) if any(widths.values()) else None,
        )
        if zero_init_residual is None:
            zero_init_residual = not repo and bool(stages) and stages != (len(f) - 1,)
        initialize(self, zero_init_residual=zero_init_residual)


def mamba_stages(mamba: Placement, num_stages: int, *, every_second: bool) -> tuple[int, ...]:
    """The encoder stages that end in a Mamba layer.

    Args:
        mamba: as for `UMamba`.
        num_stages: stages of the encoder, the bottleneck included.
        every_second: with "encoder", skip every second stage, such that the deepest has a layer.

    Returns:
        Their numbers, ascending, the first stage being 0.

    Raises:
        ValueError: `mamba` is no known name, or holds a stage that there is not, or one twice.
    """
    if isinstance(mamba, str):
        named = {
            "encoder": tuple(s for s in range(num_stages) if not every_second or s % 2 == (num_stages - 1) % 2),
            "bottleneck": (num_stages - 1,),
            "none": (),
        }
        if mamba not in named:
            raise ValueError(f"mamba is {mamba!r}; allowed: {', '.join(named)}, or a list of stage numbers.")
        return named[mamba]
    stages = tuple(sorted(mamba))
    if len(set(stages)) != len(stages) or any(s not in range(num_stages) for s in stages):
        raise ValueError(f"mamba is {list(mamba)}; allowed: distinct stage numbers from 0 to {num_stages - 1}.")
    return stages


def blocks_per_stage(num_stages: int, variant: Variant) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Residual blocks of the encoder (highest resolution first) and of the decoder (lowest first).

    Two everywhere in the paper's network. The repo's has one from encoder stage ceil(n / 2) and from decoder entry
    ceil((n - 1) / 2 + 0.5) on.
    """
    if variant == "paper":
        return (2,) * num_stages, (2,) * (num_stages - 1)
    first_encoder, first_decoder = math.ceil(num_stages / 2), math.ceil((num_stages - 1) / 2 + 0.5)
    encoder = tuple(2 if s < first_encoder else 1 for s in range(num_stages))
    return encoder, tuple(2 if s < first_decoder else 1 for s in range(num_stages - 1))


def _num_tokens(patch_size: Sequence[int] | None, strides: Sequence[Size], stage: int) -> int:
    if patch_size is None:
        raise ValueError(
            "variant='repo' with mamba='encoder' needs patch_size: its channel tokens are as wide as the feature map. "
            "Give the planned patch, or use variant='paper' or mamba='bottleneck', which run at any size."
        )
    divisors = (math.prod(axis) for axis in zip(*strides[: stage + 1], strict=True))
    return math.prod(p // k for p, k in zip(patch_size, divisors, strict=True))
