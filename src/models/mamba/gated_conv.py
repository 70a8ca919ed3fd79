"""Mamba with the state space model taken out: what is left is a gated causal convolution.

The matched control of MambaOut (Yu & Wang, arXiv 2405.07992, section 3) for the question whether the scan itself
helps: same projections, same depthwise convolution and gate as `umamba.models.mamba.block.Mamba`, no recurrence.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class GatedConv(nn.Module):
    """out_proj(SiLU(conv1d(u)) * SiLU(z)) with (u, z) = in_proj(x): (B, L, d_model) -> (B, L, d_model), float32.

    Args:
        d_model: width of a token.
        d_conv: taps of the causal depthwise convolution.
        expand: inner width over d_model.
    """

    def __init__(self, d_model: int, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix along the tokens, causally.

        Args:
            x: (B, L, d_model) float32.

        Returns:
            (B, L, d_model) float32; token t depends on tokens t - d_conv + 1 to t.
        """
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, L, d_inner) each
        past = self.conv1d.kernel_size[0] - 1
        u = self.conv1d(F.pad(u.transpose(1, 2), (past, 0))).transpose(1, 2)
        return self.out_proj(F.silu(u) * F.silu(z))
