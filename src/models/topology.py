"""The plan's numbers as the networks take them: checks of topology and input, padding to the strides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

Size = tuple[int, ...]


def decoder_order(features_per_stage: Sequence[int]) -> range:
    """Stages in the order the decoder visits them: the one above the bottleneck first, stage 0 last."""
    return range(len(features_per_stage) - 2, -1, -1)


def total_stride(strides: Sequence[Size]) -> Size:
    """Product of all stages' strides per axis."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def check_topology(
    spatial_dims: int,
    features_per_stage: Sequence[int],
    kernel_sizes: Sequence[int | Sequence[int]],
    strides: Sequence[int | Sequence[int]],
    patch_size: Sequence[int] | None,
) -> tuple[list[Size], list[Size]]:
    """Kernel sizes and strides as one tuple of `spatial_dims` ints per stage.

    Raises:
        ValueError: lists of unequal length, fewer than two stages, an even kernel, a first stride
            other than 1, or a patch the strides do not divide.
    """
    lengths = {
        "features_per_stage": len(features_per_stage),
        "kernel_sizes": len(kernel_sizes),
        "strides": len(strides),
    }
    if len(set(lengths.values())) != 1 or lengths["strides"] < 2:
        raise ValueError(f"Need one entry per stage in each list and at least two stages; got lengths {lengths}.")
    kernels = [_per_axis("kernel_sizes", s, k, spatial_dims) for s, k in enumerate(kernel_sizes)]
    steps = [_per_axis("strides", s, k, spatial_dims) for s, k in enumerate(strides)]
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise ValueError(f"kernel_sizes must be odd (padding is kernel // 2); got {kernels}.")
    if any(k != 1 for k in steps[0]):
        raise ValueError(f"strides[0] must be 1 on every axis (stage 0 works at full resolution); got {steps[0]}.")
    if patch_size is not None:
        divisor = total_stride(steps)
        if len(patch_size) != spatial_dims or any(p % k for p, k in zip(patch_size, divisor, strict=True)):
            raise ValueError(
                f"patch_size {tuple(patch_size)} must have {spatial_dims} axes divisible by {divisor} (the product of "
                "the strides); round it up or take the plan's patch_size."
            )
    return kernels, steps


def _per_axis(name: str, stage: int, value: int | Sequence[int], spatial_dims: int) -> Size:
    size = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(size) != spatial_dims or any(v < 1 for v in size):
        raise ValueError(
            f"{name}[{stage}] is {value}; expected {spatial_dims} positive ints (spatial_dims={spatial_dims})."
        )
    return size


def check_input(x: torch.Tensor, spatial_dims: int, in_channels: int, fixed_patch_size: Size | None) -> None:
    """See that a network can take `x`.

    Raises:
        ValueError: it is not (B, in_channels, *S) with `spatial_dims` axes in S, or S is not `fixed_patch_size` where
            there is one.
    """
    if x.ndim != spatial_dims + 2 or x.shape[1] != in_channels:
        raise ValueError(
            f"Input of shape {tuple(x.shape)}; expected (batch, {in_channels} channels, {spatial_dims} spatial axes)."
        )
    if fixed_patch_size is not None and tuple(x.shape[2:]) != fixed_patch_size:
        raise ValueError(
            f"Input of spatial shape {tuple(x.shape[2:])}, but the weights of this network exist for "
            f"{fixed_patch_size} only. Cut windows of that size, or use a size-free network (variant='paper' or "
            "mamba='bottleneck')."
        )


def pad_to_multiple(x: torch.Tensor, divisor: Size) -> torch.Tensor:
    """Pad each spatial axis of (B, C, *S) with zeros at its far end to the next multiple of `divisor`.

    Returns:
        The padded tensor, or `x` itself where nothing is missing.
    """
    missing = [-size % d for size, d in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [amount for m in reversed(missing) for amount in (0, m)])  # F.pad starts with the last axis


def crop(x: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor:
    """The first `spatial_shape` entries of each spatial axis of (B, C, *S)."""
    for axis, size in enumerate(spatial_shape, start=2):
        x = x.narrow(axis, 0, size)
    return x
