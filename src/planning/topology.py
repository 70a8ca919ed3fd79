"""Depth, strides, kernels and cost of a U-Net from spacing and patch size: nnU-Net's rules (Isensee et al. 2021).

The cost is the number of values in the feature maps at batch size 1, without deep supervision. It is no number of
bytes: it is held against reference values that were measured to fit a GPU of known memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ANISOTROPY = 3  # ratio of spacings (and of sizes) above which an image or data set counts as anisotropic
MIN_EDGE = 4  # voxels; no feature map gets an edge below this
_ISOTROPIC = 2  # axes whose spacings differ by less than this factor count as equally resolved


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Shape of a U-Net.

    Attributes:
        patch_size: The patch, padded so that every stride divides it.
        strides: Per stage and axis; the first stage has stride 1.
        kernel_sizes: Per stage and axis, 1 across axes that are still much coarser than the finest, else 3.
        num_pool: Per axis, how often it is halved.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    num_pool: tuple[int, ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the patch is a multiple of."""
        return tuple(2**count for count in self.num_pool)


def plan_topology(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Halve the finest axes until feature maps would get smaller than `MIN_EDGE`.

    Args:
        spacing: mm per axis.
        patch_size: Voxels per axis; may be fractional (a median of shapes), only the result is whole.

    Returns:
        The topology, with the patch padded to a multiple of the total stride.
    """
    spacing, size = list(spacing), list(patch_size)
    axes = range(len(spacing))
    kernel = [1] * len(spacing)
    num_pool = [0] * len(spacing)
    strides = [(1,) * len(spacing)]
    kernels: list[tuple[int, ...]] = []
    while pooled := _axes_to_pool(spacing, size):
        finest = min(spacing)
        for axis in axes:
            if spacing[axis] / finest < _ISOTROPIC:
                kernel[axis] = 3  # and stays 3
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            num_pool[axis] += 1
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append((3,) * len(spacing))  # the bottleneck
    padded = tuple(int(math.ceil(patch_size[axis] / 2 ** num_pool[axis]) * 2 ** num_pool[axis]) for axis in axes)
    return Topology(patch_size=padded, strides=tuple(strides), kernel_sizes=tuple(kernels), num_pool=tuple(num_pool))


def _axes_to_pool(spacing: list[float], size: list[float]) -> list[int]:
    """The axes to halve next: large enough, and within a factor of two of the finest of those."""
    large = [axis for axis, edge in enumerate(size) if edge >= 2 * MIN_EDGE]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    pooled = [axis for axis in large if spacing[axis] / finest < _ISOTROPIC]
    if len(pooled) == 1 and size[pooled[0]] < 3 * MIN_EDGE:
        return []
    return pooled


def stage_shapes(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Spatial shape of the feature maps of every stage."""
    shapes = []
    shape = tuple(patch_size)
    for stride in strides:
        shape = tuple(size // step for size, step in zip(shape, stride, strict=True))
        shapes.append(shape)
    return shapes


def plain_unet_cost(
    patch_size: Sequence[int], strides: Sequence[Sequence[int]], features_per_stage: Sequence[int], num_labels: int
) -> int:
    """Cost of nnU-Net's plain U-Net: two convolutions a stage, in the decoder a transposed one before them; the head.

    Args:
        patch_size: Voxels per axis.
        strides: Per stage and axis.
        features_per_stage: Channels per stage.
        num_labels: Output channels as nnU-Net counts them: the entries of dataset.json's labels.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(patch_size, strides)]
    encoder = sum(2 * f * v for f, v in zip(features_per_stage, voxels, strict=True))
    return encoder + _decoder_cost(voxels, features_per_stage, num_labels, convs=2)


def residual_unet_cost(
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    num_labels: int,
    *,
    blocks: Sequence[int],
) -> int:
    """Cost of nnU-Net's residual-encoder U-Net: the stem, per block two convolutions and a shortcut that changes shape.

    Arguments as of `plain_unet_cost`; `blocks` are the residual blocks per encoder stage.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(patch_size, strides)]
    total = features_per_stage[0] * math.prod(patch_size)  # the stem
    channels = features_per_stage[0]
    for f, v, stride, count in zip(features_per_stage, voxels, strides, blocks, strict=True):
        shortcut = f != channels or any(step > 1 for step in stride)
        total += (2 * count + shortcut) * f * v
        channels = f
    return total + _decoder_cost(voxels, features_per_stage, num_labels, convs=1)


def _decoder_cost(voxels: Sequence[int], features: Sequence[int], num_labels: int, convs: int) -> int:
    # 1 is the transposed convolution, whose output has the skip connection's shape.
    stages = sum((1 + convs) * f * v for f, v in zip(features[:-1], voxels[:-1], strict=True))
    return stages + num_labels * voxels[0]
