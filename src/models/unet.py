"""The U-shaped frame every planned network shares, and nnU-Net's own two networks on it.

`PlainConvUNet` is the CNN of nnU-Net (Isensee et al. 2021), `ResidualEncoderUNet` the residual encoder of its ResEnc
presets (Isensee et al., arXiv 2404.09556). `src.models.umamba.UMamba` is the third network on the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from src.models.blocks import (
    CONV,
    ConvBlock,
    Size,
    conv_stage,
    initialize,
    residual_stage,
    upsampling,
)
from src.models.kernels.choice import in_preferred_layout, weight_in_preferred_layout, with_layout_of
from src.models.topology import check_input, check_topology, crop, decoder_order, pad_to_multiple, total_stride

RESENC_BLOCKS = (1, 3, 4, 6)  # nnU-Net's ResEnc presets; every further stage has 6


class UNet(nn.Module):
    """Stem, encoder stages, and decoder stages with skips and one 1x1 head each.

    Input axes that the strides do not divide are padded with zeros at the far end and the outputs cropped again, so
    every input size works unless `fixed_patch_size` is set. With `deep_supervision=False` the heads that are not used
    are frozen (they get no gradient).

    Args:
        stem: (B, in_channels, *S) -> (B, C_0, *S).
        encoder_stages: stage s maps to features_per_stage[s] channels and divides the axes by strides[s].
        upsamples, decoder_stages: from the lowest resolution to the highest, n_stages - 1 of each.
        skip_at_full_resolution: False leaves the skip of stage 0 out.
        fixed_patch_size: the one input size that works, or None.

    Attributes:
        deep_supervision: whether `forward` returns all outputs; may be switched at any time (False for prediction).
        required_divisor: input axes that are multiples of it need no padding.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features_per_stage: Sequence[int],
        strides: Sequence[Size],
        stem: nn.Module,
        encoder_stages: Sequence[nn.Module],
        upsamples: Sequence[nn.Module],
        decoder_stages: Sequence[nn.Module],
        skip_at_full_resolution: bool = True,
        fixed_patch_size: Size | None = None,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.skip_at_full_resolution = skip_at_full_resolution
        self.fixed_patch_size = fixed_patch_size
        self.deep_supervision = deep_supervision
        self.required_divisor = total_stride(strides)
        self.stem = stem
        self.encoder_stages = nn.ModuleList(encoder_stages)
        self.upsamples = nn.ModuleList(upsamples)
        self.decoder_stages = nn.ModuleList(decoder_stages)
        self.heads = nn.ModuleList(CONV[spatial_dims](f, out_channels, 1) for f in reversed(features_per_stage[:-1]))
        if not deep_supervision:
            self.heads[:-1].requires_grad_(False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> UNet:
        """What `to`, `cuda` and the like come to: besides, weights get the layout that goes with the feature maps'."""
        super()._apply(fn, recurse)
        return super()._apply(weight_in_preferred_layout, recurse)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of an image.

        Args:
            x: (B, in_channels, *S), floating point, any S (see the class).

        Returns:
            With deep supervision a list of n_stages - 1 tensors, (B, out_channels, *S) first, each next one at the
            next stage's resolution (axes rounded up); otherwise the first alone.

        Raises:
                ValueError: wrong number of axes or channels, not the fixed size, or one position left at the deepest
                    stage.
        """
        check_input(x, self.spatial_dims, self.in_channels, self.fixed_patch_size)
        spatial_shape = x.shape[2:]
        x = pad_to_multiple(x, self.required_divisor)
        if x.shape[2:].numel() == math.prod(self.required_divisor):
            raise ValueError(
                f"Input of spatial shape {tuple(spatial_shape)} leaves one position at the deepest stage, where "
                f"instance norm is undefined; at least one axis must exceed {self.required_divisor}."
            )
        x = self.stem(in_preferred_layout(x))
        skips = []
        for stage in self.encoder_stages:
            x = stage(x)
            skips.append(x)
        skips.pop()  # the bottleneck
        outputs = []
        for upsample, stage, head in zip(self.upsamples, self.decoder_stages, self.heads, strict=True):
            x = upsample(x)
            skip = skips.pop()
            if skips or self.skip_at_full_resolution:
                x = torch.cat((with_layout_of(x, skip), skip), dim=1)
            x = stage(x)
            if self.deep_supervision:
                outputs.append(head(x))
        if not self.deep_supervision:
            return crop(self.heads[-1](x), spatial_shape)
        outputs.reverse()
        full = outputs[0].shape[2:]
        # (B, K, *ceil(S / stride)) per output: only padded inputs are cropped
        return [
            crop(o, [-(-size // (n // m)) for size, n, m in zip(spatial_shape, full, o.shape[2:], strict=True)])
            for o in outputs
        ]


class PlainConvUNet(UNet):
    """nnU-Net's CNN: plain convolution blocks, strided convolutions down, transposed convolutions up.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: number of labels, background included.
        features_per_stage: channels of each stage, highest resolution first.
        kernel_sizes, strides: one per stage, an int or one int per axis; the first stride is 1.
        patch_size: if given, checked against the strides.
        deep_supervision: return the logits of every decoder stage.
        blocks_per_stage: convolutions per encoder and per decoder stage.

    Raises:
        ValueError: topology or patch that does not fit together.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features_per_stage: Sequence[int],
        kernel_sizes: Sequence[int | Sequence[int]],
        strides: Sequence[int | Sequence[int]],
        patch_size: Sequence[int] | None = None,
        deep_supervision: bool = True,
        blocks_per_stage: int = 2,
    ) -> None:
        d, f = spatial_dims, features_per_stage
        kernels, strides = check_topology(d, f, kernel_sizes, strides, patch_size)
        inputs = (in_channels, *f[:-1])
        super().__init__(
            spatial_dims=d,
            in_channels=in_channels,
            out_channels=out_channels,
            features_per_stage=f,
            strides=strides,
            stem=nn.Identity(),
            encoder_stages=[
                conv_stage(d, inputs[s], f[s], kernels[s], strides[s], blocks_per_stage) for s in range(len(f))
            ],
            upsamples=[upsampling(d, f[s + 1], f[s], strides[s + 1], "transposed") for s in decoder_order(f)],
            decoder_stages=[
                conv_stage(d, 2 * f[s], f[s], kernels[s], (1,) * d, blocks_per_stage) for s in decoder_order(f)
            ],
            deep_supervision=deep_supervision,
        )
        initialize(self)


class ResidualEncoderUNet(UNet):
    """nnU-Net's residual encoder U-Net (presets M, L and XL differ in the plan alone). Arguments as `PlainConvUNet`.

    Args:
        encoder_blocks: residual blocks per encoder stage; the last value goes on for further stages.
        decoder_blocks: convolutions per decoder stage.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features_per_stage: Sequence[int],
        kernel_sizes: Sequence[int | Sequence[int]],
        strides: Sequence[int | Sequence[int]],
        patch_size: Sequence[int] | None = None,
        deep_supervision: bool = True,
        encoder_blocks: Sequence[int] = RESENC_BLOCKS,
        decoder_blocks: int = 1,
    ) -> None:
        d, f = spatial_dims, features_per_stage
        kernels, strides = check_topology(d, f, kernel_sizes, strides, patch_size)
        blocks = [encoder_blocks[min(s, len(encoder_blocks) - 1)] for s in range(len(f))]
        inputs = (f[0], *f[:-1])
        super().__init__(
            spatial_dims=d,
            in_channels=in_channels,
            out_channels=out_channels,
            features_per_stage=f,
            strides=strides,
            stem=ConvBlock(d, in_channels, f[0], kernels[0], (1,) * d),
            encoder_stages=[
                residual_stage(d, inputs[s], f[s], kernels[s], strides[s], blocks[s], "pool") for s in range(len(f))
            ],
            upsamples=[upsampling(d, f[s + 1], f[s], strides[s + 1], "transposed") for s in decoder_order(f)],
            decoder_stages=[
                conv_stage(d, 2 * f[s], f[s], kernels[s], (1,) * d, decoder_blocks) for s in decoder_order(f)
            ],
            deep_supervision=deep_supervision,
        )
        initialize(self, zero_init_residual=True)
