"""The U-shaped frame every planned network shares, and nnU-Net's own two networks on it.

`PlainConvUNet` is the CNN of nnU-Net (Isensee et al. 2021), `ResidualEncoderUNet` the residual encoder of its ResEnc
presets (Isensee et al., arXiv 2404.09556). `umamba.models.umamba.UMamba` is the third network on the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from umamba.models.blocks import ConvBlock, conv_stage, initialize, residual_stage, upsampling
from umamba.models.kernels.choice import in_preferred_layout, weight_in_preferred_layout, with_layout_of
from umamba.models.kernels.concatenation import adds_bias, concatenate
from umamba.models.kernels.formed import keep_itself
from umamba.models.kernels.weight_casts import casts_at_once, in_half_precision
from umamba.models.layers import CONV, CONVOLUTIONS
from umamba.models.spec import NetworkSpec
from umamba.models.topology import Size, check_input, crop, decoder_order, pad_to_multiple, total_stride

RESENC_BLOCKS = (1, 3, 4, 6)  # nnU-Net's ResEnc presets; every further stage has 6


class UNet(nn.Module):
    """Stem, encoder stages, and decoder stages with skips and one 1x1 head each.

    Input axes that the strides do not divide are padded with zeros at the far end and the outputs cropped again, so
    every input size works unless `fixed_patch_size` is set. With `deep_supervision=False` the heads that are not used
    are frozen (they get no gradient).

    Args:
        spec: see `NetworkSpec`.
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
        spec: NetworkSpec,
        *,
        stem: nn.Module,
        encoder_stages: Sequence[nn.Module],
        upsamples: Sequence[nn.Module],
        decoder_stages: Sequence[nn.Module],
        skip_at_full_resolution: bool = True,
        fixed_patch_size: Size | None = None,
    ) -> None:
        super().__init__()
        features, _, strides = spec.stages()
        self.spatial_dims = spec.spatial_dims
        self.in_channels = spec.in_channels
        self.out_channels = spec.out_channels
        self.skip_at_full_resolution = skip_at_full_resolution
        self.fixed_patch_size = fixed_patch_size
        self.deep_supervision = spec.deep_supervision
        self.required_divisor = total_stride(strides)
        self.stem = stem
        self.encoder_stages = nn.ModuleList(encoder_stages)
        self.upsamples = nn.ModuleList(upsamples)
        self.decoder_stages = nn.ModuleList(decoder_stages)
        conv = CONV[spec.spatial_dims]
        self.heads = nn.ModuleList(conv(f, spec.out_channels, 1) for f in reversed(features[:-1]))
        if not spec.deep_supervision:
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
        if math.prod(x.shape[2:]) == math.prod(self.required_divisor):
            raise ValueError(
                f"Input of spatial shape {tuple(spatial_shape)} leaves one position at the deepest stage, where "
                f"instance norm is undefined; at least one axis must exceed {self.required_divisor}."
            )
        if not casts_at_once(x):
            return self._outputs(x, spatial_shape)
        convolutions = (layer for layer in self.modules() if isinstance(layer, CONVOLUTIONS))
        with in_half_precision(convolutions, torch.get_autocast_dtype(x.device.type)):
            return self._outputs(x, spatial_shape)

    def _outputs(self, x: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor | list[torch.Tensor]:
        """Logits of the padded input, cropped to the shape before."""
        x = self.stem(in_preferred_layout(x))
        skips = []
        for stage in self.encoder_stages:
            x = stage(x)
            skips.append(x)
        skips.pop()  # the bottleneck
        outputs = []
        for upsample, stage, head in zip(self.upsamples, self.decoder_stages, self.heads, strict=True):
            x = self._joined(upsample, x, skips)
            x = stage(x)
            if not skips:
                keep_itself(x)
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

    def _joined(self, upsample: nn.Module, x: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """A decoder stage's input.

        Nothing refers to the skip afterwards, so that its memory is free where no gradient needs it.
        """
        skip = skips.pop()
        if not skips and not self.skip_at_full_resolution:
            return upsample(x)
        bias = None
        if isinstance(upsample, CONVOLUTIONS) and adds_bias(x):
            x, bias = upsample(x, add_bias=False), upsample.bias
        else:
            x = upsample(x)
        return concatenate(with_layout_of(x, skip), skip, bias)


class PlainConvUNet(UNet):
    """nnU-Net's CNN: plain convolution blocks, strided convolutions down, transposed convolutions up.

    Args:
        blocks_per_stage: convolutions per encoder stage, one number for all or one each.
        decoder_blocks: the same per decoder stage, lowest resolution first; None for `blocks_per_stage`, if it is one
            number, else 2.
        **spec: fields of `NetworkSpec`.

    Raises:
        ValueError: topology or patch that does not fit together.
    """

    def __init__(
        self,
        *,
        blocks_per_stage: int | Sequence[int] = 2,
        decoder_blocks: int | Sequence[int] | None = None,
        **spec: Any,
    ) -> None:
        s = NetworkSpec(**spec)
        d, (f, kernels, strides) = s.spatial_dims, s.stages()
        if decoder_blocks is None:
            decoder_blocks = blocks_per_stage if isinstance(blocks_per_stage, int) else 2
        encoder = _each("blocks_per_stage", blocks_per_stage, len(f))
        decoder = _each("decoder_blocks", decoder_blocks, len(f) - 1)
        inputs = (s.in_channels, *f[:-1])
        super().__init__(
            s,
            stem=nn.Identity(),
            encoder_stages=[conv_stage(d, inputs[i], f[i], kernels[i], strides[i], encoder[i]) for i in range(len(f))],
            upsamples=[upsampling(d, f[i + 1], f[i], strides[i + 1], "transposed") for i in decoder_order(f)],
            decoder_stages=[
                conv_stage(d, 2 * f[i], f[i], kernels[i], (1,) * d, n)
                for i, n in zip(decoder_order(f), decoder, strict=True)
            ],
        )
        initialize(self)


class ResidualEncoderUNet(UNet):
    """nnU-Net's residual encoder U-Net (presets M, L and XL differ in the plan alone). Arguments as `PlainConvUNet`.

    Args:
        encoder_blocks: residual blocks per encoder stage; the last value goes on for further stages.
        decoder_blocks: convolutions per decoder stage, lowest resolution first; one number for all or one each.
    """

    def __init__(
        self, *, encoder_blocks: Sequence[int] = RESENC_BLOCKS, decoder_blocks: int | Sequence[int] = 1, **spec: Any
    ) -> None:
        s = NetworkSpec(**spec)
        d, (f, kernels, strides) = s.spatial_dims, s.stages()
        blocks = [encoder_blocks[min(i, len(encoder_blocks) - 1)] for i in range(len(f))]
        inputs = (f[0], *f[:-1])
        super().__init__(
            s,
            stem=ConvBlock(d, s.in_channels, f[0], kernels[0], (1,) * d),
            encoder_stages=[
                residual_stage(d, inputs[i], f[i], kernels[i], strides[i], blocks[i], "pool") for i in range(len(f))
            ],
            upsamples=[upsampling(d, f[i + 1], f[i], strides[i + 1], "transposed") for i in decoder_order(f)],
            decoder_stages=[
                conv_stage(d, 2 * f[i], f[i], kernels[i], (1,) * d, n)
                for i, n in zip(decoder_order(f), _each("decoder_blocks", decoder_blocks, len(f) - 1), strict=True)
            ],
        )
        initialize(self, zero_init_residual=True)


def _each(name: str, blocks: int | Sequence[int], stages: int) -> tuple[int, ...]:
    counts = (blocks,) * stages if isinstance(blocks, int) else tuple(blocks)
    if len(counts) != stages or any(count < 1 for count in counts):
        raise ValueError(f"{name} is {blocks}; expected a number > 0, or {stages} of them.")
    return counts
