"""In which order a feature map's tokens are read: the scan directions of a Mamba layer.

A direction reorders raster tokens before the mixer and puts its output back in raster order after it. An order is a
function from the number of spatial axes to the directions of one layer; each direction has a mixer, and their outputs
are summed. A new order is such a function in a file of its own, named in a model config by `_target_`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class Direction(Protocol):
    """One way through the tokens; `restore` undoes `arrange`.

    Both map (B, L, C) to (B, L, C), L = prod(spatial_shape).
    """

    def arrange(self, tokens: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor: ...

    def restore(self, tokens: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor: ...


@dataclass(frozen=True, kw_only=True)
class AxisScan:
    """Row-major over the spatial axes in a given order, from the first token or the last.

    Attributes:
        axes: the order; the last axis runs fastest. None keeps the raster's.
        reverse: whether to begin at the end.
    """

    axes: tuple[int, ...] | None = None
    reverse: bool = False

    def arrange(self, tokens: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor:
        """Bring raster tokens into this order.

        Args:
            tokens: (B, L, C) in any dtype, in raster order.
            spatial_shape: *S with L = prod(S).

        Returns:
            (B, L, C).

        Raises:
            ValueError: `axes` is given, and the tokens do not fill `spatial_shape`.
        """
        if self.axes is not None:
            tokens = _permute(tokens, spatial_shape, self.axes)
        return tokens.flip(1) if self.reverse else tokens

    def restore(self, tokens: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor:
        """Bring tokens of this order back into raster order.

        Args:
            tokens: (B, L, C) in any dtype, as `arrange` gives them.
            spatial_shape: *S of the raster, L = prod(S).

        Returns:
            (B, L, C) in raster order.

        Raises:
            ValueError: `axes` is given, and the tokens do not fill `spatial_shape`.
        """
        tokens = tokens.flip(1) if self.reverse else tokens
        if self.axes is None:
            return tokens
        inverse = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return _permute(tokens, [spatial_shape[axis] for axis in self.axes], inverse)


def _permute(tokens: torch.Tensor, spatial_shape: Sequence[int], axes: tuple[int, ...]) -> torch.Tensor:
    batch, length, channels = tokens.shape
    if length != math.prod(spatial_shape):
        raise ValueError(f"{length} tokens do not fill spatial shape {tuple(spatial_shape)}.")
    grid = tokens.reshape(batch, *spatial_shape, channels)  # (B, *S, C)
    return grid.permute(0, *(axis + 1 for axis in axes), -1).reshape(batch, length, channels)


Order = Callable[[int], Sequence[Direction]]


def raster(spatial_dims: int) -> tuple[AxisScan, ...]:
    """Row-major, once: U-Mamba's order.

    Returns:
        One direction.
    """
    return (AxisScan(),)


def bidirectional(spatial_dims: int) -> tuple[AxisScan, ...]:
    """The raster forwards and backwards, as Vision Mamba reads images (Zhu et al., arXiv 2401.09417).

    Returns:
        Two directions.
    """
    return (AxisScan(), AxisScan(reverse=True))


def tri_oriented(spatial_dims: int) -> tuple[AxisScan, ...]:
    """The raster forwards and backwards, and across slices (first axis fastest), as SegMamba reads volumes.

    Xing et al., arXiv 2401.13560, section 2.3. SegMamba's number of slices is the length of the first axis at every
    stage; here it is by construction. In 2D the third direction runs down the columns.

    Args:
        spatial_dims: 2 or 3.

    Returns:
        Three directions.
    """
    return (AxisScan(), AxisScan(reverse=True), AxisScan(axes=(*range(1, spatial_dims), 0)))
