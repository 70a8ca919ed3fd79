"""nnU-Net's cost estimate of a U-Net: values in its feature maps at batch size 1, without deep supervision.

It is no number of bytes: it is held against reference values that were measured to fit a GPU of known memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def stage_shapes(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Spatial shape of the feature maps of every stage."""
    shapes = []
    shape = tuple(patch_size)
    for stride in strides:
        shape = tuple(size // step for size, step in zip(shape, stride, strict=True))
        shapes.append(shape)
    return shapes


def plain_unet_cost(
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    num_labels: int,
    *,
    convs_encoder: int = 2,
    convs_decoder: int = 2,
) -> int:
    """Cost of nnU-Net's plain U-Net: encoder convolutions, transposed convolution + decoder convolutions, the head.

    Args:
        patch_size: Voxels per axis.
        strides: Per stage and axis.
        features_per_stage: Channels per stage.
        num_labels: Output channels as nnU-Net counts them: the entries of dataset.json's labels.
        convs_encoder: Convolutions per encoder stage.
        convs_decoder: Convolutions per decoder stage.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(patch_size, strides)]
    encoder = sum(convs_encoder * f * v for f, v in zip(features_per_stage, voxels, strict=True))
    return encoder + _decoder_cost(voxels, features_per_stage, num_labels, convs_decoder)


def residual_unet_cost(
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    num_labels: int,
    *,
    blocks: Sequence[int],
    convs_decoder: int = 1,
) -> int:
    """Cost of nnU-Net's residual-encoder U-Net: the stem, per block two convolutions and a shortcut that changes shape.

    Args:
        patch_size: Voxels per axis.
        strides: Per stage and axis.
        features_per_stage: Channels per stage.
        num_labels: Entries of dataset.json's labels.
        blocks: Residual blocks per encoder stage.
        convs_decoder: Convolutions per decoder stage.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(patch_size, strides)]
    total = features_per_stage[0] * math.prod(patch_size)  # the stem
    channels = features_per_stage[0]
    for f, v, stride, count in zip(features_per_stage, voxels, strides, blocks, strict=True):
        shortcut = f != channels or any(step > 1 for step in stride)
        total += (2 * count + shortcut) * f * v
        channels = f
    return total + _decoder_cost(voxels, features_per_stage, num_labels, convs_decoder)


def _decoder_cost(voxels: Sequence[int], features: Sequence[int], num_labels: int, convs: int) -> int:
    # 1 is the transposed convolution, whose output has the skip connection's shape.
    stages = sum((1 + convs) * f * v for f, v in zip(features[:-1], voxels[:-1], strict=True))
    return stages + num_labels * voxels[0]
