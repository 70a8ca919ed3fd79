"""Depth, strides and kernels of a U-Net from spacing and patch size: nnU-Net's rules (Isensee et al. 2021)."""

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
