"""The Mamba layer of U-Mamba: a feature map read as tokens, mixed by a state space model, and written back.

Source: U-Mamba (Ma et al., arXiv 2401.04722, section 2 and figure 1a) with the settings of the authors' code. The
layer's output replaces the feature map: there is no residual connection around it and no norm after it.

    y = sum over directions d of restore_d(mixer_d(arrange_d(LayerNorm(tokens(x)))))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from umamba.models.kernels.choice import with_layout_of
from umamba.models.mamba.block import Mamba
from umamba.models.mamba.gated_conv import GatedConv
from umamba.models.mamba.orders import Order, bidirectional, raster, tri_oriented
from umamba.models.mamba.ssd import SSD

T = TypeVar("T")
Mixer = Callable[[int], nn.Module]  # width -> module mapping (B, L, width) to (B, L, width)

MIXERS: dict[str, Mixer] = {"s6": Mamba, "ssd": SSD, "gated_conv": GatedConv}
ORDERS: dict[str, Order] = {"raster": raster, "bidirectional": bidirectional, "tri_oriented": tri_oriented}

# Directions read and write the same channels: SegMamba and Vision Mamba give each its own convolution, step, A, B, C
# and D, but share the two outer projections. Without bias the sum of the projected outputs is the projected sum, so
# sharing the modules is the same function.
SHARED_BY_DIRECTIONS = ("in_proj", "out_proj")


class MambaLayer(nn.Module):
    """LayerNorm, then one mixer per scan direction, summed: (B, C, *S) -> (B, C, *S).

    Computed in the dtype of its weights, float32, with autocast off (recurrences overflow float16 and lose small
    steps in bfloat16); the result has the input's dtype. On a GPU the fused kernels take half-precision maps and
    products, with step sizes, states and sums in float32, where every mixer says so (`Mamba.takes_half`).

    Args:
        width: length of a token: C, or prod(S) with `channel_tokens`.
        spatial_dims: 2 or 3.
        mixer: a name of `MIXERS`, or any function from the width to a module on (B, L, width).
        order: a name of `ORDERS`, or any function from spatial_dims to directions, see `umamba.models.mamba.orders`.
        channel_tokens: read the C channels as tokens of width prod(S) (the authors' code of March 2024) instead of
            the prod(S) positions as tokens of width C.

    Raises:
        ValueError: unknown mixer or order, or an order other than raster for channel tokens, which have no position.
    """

    def __init__(
        self,
        width: int,
        *,
        spatial_dims: int,
        mixer: str | Mixer = "s6",
        order: str | Order = "raster",
        channel_tokens: bool = False,
    ) -> None:
        super().__init__()
        make_mixer = lookup("mixer", mixer, MIXERS)
        make_directions = lookup("order", order, ORDERS)
        if channel_tokens and make_directions is not raster:
            raise ValueError(
                f"order is {order!r}, but channel tokens have no spatial order: use order='raster', or spatial tokens "
                "(variant='paper', or mamba='bottleneck')."
            )
        self.directions = tuple(make_directions(spatial_dims))
        self.channel_tokens = channel_tokens
        self.norm = nn.LayerNorm(width)
        self.mixers = nn.ModuleList(make_mixer(width) for _ in self.directions)
        for mixer_module in self.mixers[1:]:
            for name in SHARED_BY_DIRECTIONS:
                if hasattr(mixer_module, name):
                    setattr(mixer_module, name, getattr(self.mixers[0], name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's sum over its directions; a residual is the caller's.

        Args:
            x: (B, C, *S) in any floating dtype. C is the layer's width; with channel tokens prod(S) is.

        Returns:
            Shape, dtype and memory layout of x.
        """
        with torch.autocast(x.device.type, enabled=False):
            tokens = x.flatten(2)  # (B, C, L)
            if not self.channel_tokens:
                tokens = tokens.transpose(1, 2)  # (B, L, C)
            tokens = self._normalized(tokens)
            outputs = [
                direction.restore(mixer(direction.arrange(tokens, x.shape[2:])), x.shape[2:])
                for direction, mixer in zip(self.directions, self.mixers, strict=True)
            ]
            mixed = functools.reduce(torch.add, outputs)
            if not self.channel_tokens:
                mixed = mixed.transpose(1, 2)  # (B, C, L)
            return with_layout_of(mixed.unflatten(2, x.shape[2:]), x, x.dtype)

    def _normalized(self, tokens: torch.Tensor) -> torch.Tensor:
        """Layer norm, in half precision in and out where all that follows takes it, else in its weights' dtype."""
        norm = self.norm
        if tokens.is_cuda and all(getattr(m, "takes_half", lambda _: False)(tokens) for m in self.mixers):
            from umamba.models.kernels.layer_norm import MAX_WIDTH, layer_norm  # imports Triton, as `takes_half` has

            if tokens.shape[-1] <= MAX_WIDTH:
                return layer_norm(tokens, norm.weight, norm.bias, norm.eps)
        # One pass over memory casts and lays out
        return norm(tokens.to(norm.weight.dtype, memory_format=torch.contiguous_format))


def lookup(name: str, value: str | T, table: Mapping[str, T]) -> T:
    """`value` itself if it is no string, else its entry in `table`.

    Raises:
        ValueError: the table has none of that name; `name` says what was to be chosen.
    """
    if not isinstance(value, str):
        return value
    if value not in table:
        raise ValueError(f"{name} is {value!r}; known names: {', '.join(table)}. A new one is given as a function.")
    return table[value]
