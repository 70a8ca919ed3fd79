"""Mamba-2's mixer, the state space dual (SSD) form, in plain torch.

Source: Dao & Gu, "Transformers are SSMs" (arXiv 2405.21060), equations 16-18 and section 6: the scan with one decay
per head is a masked matrix product inside chunks and a short scan between them. It departs in one thing: the scan
between chunks is chunked again, so cost and memory grow linearly with L also for the millions of tokens of a 3D
patch.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class SSD(nn.Module):
    """Mamba-2 block: (B, L, d_model) -> (B, L, d_model), float32.

    Args:
        d_model: width of a token.
        d_state: size N of a head's state, shared projections B and C (one group).
        d_conv: taps of the causal depthwise convolution.
        expand: inner width over d_model.
        head_dim: channels P per head; reduced to the greatest common divisor with the inner width.
        chunk_size: tokens per chunk; a matter of speed, not of the result.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        chunk_size: int = 64,
    ) -> None:
        super().__init__()
        self.d_inner = expand * d_model
        self.d_state = d_state
        self.chunk_size = chunk_size
        self.head_dim = math.gcd(self.d_inner, head_dim)
        num_heads = self.d_inner // self.head_dim
        d_xbc = self.d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + d_xbc + num_heads, bias=False)  # z, (x, B, C), dt
        self.conv1d = nn.Conv1d(d_xbc, d_xbc, d_conv, groups=d_xbc)
        self.norm = nn.RMSNorm(self.d_inner, eps=1e-5)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        # The reference's start: steps log-uniform in [1e-3, 1e-1] behind the softplus, decays uniform in [1, 16]
        step = torch.exp(torch.rand(num_heads) * math.log(100.0) + math.log(1e-3)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.log(1 + 15 * torch.rand(num_heads)))
        self.D = nn.Parameter(torch.ones(num_heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix along the tokens, causally.

        Args:
            x: (B, L, d_model) float32.

        Returns:
            (B, L, d_model) float32; token t depends on tokens 0 to t.
        """
        batch, length, _ = x.shape
        z, xbc, dt = self.in_proj(x).split([self.d_inner, self.conv1d.in_channels, len(self.D)], dim=-1)
        past = self.conv1d.kernel_size[0] - 1
        xbc = F.silu(self.conv1d(F.pad(xbc.transpose(1, 2), (past, 0))).transpose(1, 2))
        u, b, c = xbc.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        u = u.reshape(batch, length, -1, self.head_dim)  # (B, L, H, P)
        dt = F.softplus(dt + self.dt_bias)  # (B, L, H)
        log_decay = -dt * torch.exp(self.A_log)
        y = chunked_scan(u * dt[..., None], log_decay, b, c, self.chunk_size)
        y = (y + u * self.D[:, None]).reshape(batch, length, self.d_inner)
        return self.out_proj(self.norm(y * F.silu(z)))


def chunked_scan(
    x: torch.Tensor, log_decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor, chunk_size: int
) -> torch.Tensor:
    """y_t = h_t c_t with h_t = exp(log_decay_t) h_{t-1} + x_t b_t^T and h_{-1} = 0.

    Args:
        x: (B, L, H, P).
        log_decay: (B, L, H), <= 0.
        b: (B, L, N).
        c: (B, L, N).
        chunk_size: tokens per chunk.

    Returns:
        (B, L, H, P).
    """
    length = x.shape[1]
    missing = -length % chunk_size  # padded with x = 0 and decay 1: no effect on what comes before
    x, log_decay = F.pad(x, (0, 0, 0, 0, 0, missing)), F.pad(log_decay, (0, 0, 0, missing))
    b, c = F.pad(b, (0, 0, 0, missing)), F.pad(c, (0, 0, 0, missing))
    x, log_decay, b, c = (t.unflatten(1, (-1, chunk_size)) for t in (x, log_decay, b, c))  # (B, chunks, T, ...)
    total = log_decay.cumsum(2)  # (B, chunks, T, H): decay from the chunk's start up to and with t
    weights = torch.einsum("bktn,bksn->bkts", c, b)[..., None] * _decay_matrix(total)  # (B, chunks, T, T, H)
    y = torch.einsum("bktsh,bkshp->bkthp", weights, x)
    to_end = torch.exp(total[:, :, -1:] - total)  # (B, chunks, T, H)
    gained = torch.einsum("bkshp,bksh,bksn->bkhpn", x, to_end, b)
    start = _states_before(total[:, :, -1], gained, chunk_size)  # (B, chunks, H, P, N)
    y = y + torch.einsum("bktn,bkhpn,bkth->bkthp", c, start, torch.exp(total))
    return y.flatten(1, 2)[:, :length]


def _decay_matrix(total: torch.Tensor) -> torch.Tensor:
    """exp(total_t - total_s) for s <= t, else 0: (..., T, H) -> (..., T, T, H)."""
    steps = total.shape[-2]
    later = torch.ones(steps, steps, dtype=torch.bool, device=total.device).triu(1)[..., None]
    difference = total.unsqueeze(-2) - total.unsqueeze(-3)
    return torch.exp(difference.masked_fill(later, -torch.inf))  # masked before exp: no inf * 0 in the gradient


def _states_before(log_decay: torch.Tensor, gained: torch.Tensor, group: int) -> torch.Tensor:
    """The state before each chunk, from each chunk's decay (B, K, H) and own final state (B, K, H, P, N)."""
    chunks = gained.shape[1]
    if chunks == 1:
        return torch.zeros_like(gained)
    missing = -chunks % group
    log_decay = F.pad(log_decay, (0, 0, 0, missing)).unflatten(1, (-1, group))  # (B, groups, G, H)
    gained = F.pad(gained, (0, 0, 0, 0, 0, 0, 0, missing)).unflatten(1, (-1, group))
    total = log_decay.cumsum(2)
    after = torch.einsum("bgtsh,bgshpn->bgthpn", _decay_matrix(total), gained)  # after each chunk, group started at 0
    before_group = _states_before(total[:, :, -1], after[:, :, -1], group)
    after = after + torch.exp(total)[..., None, None] * before_group[:, :, None]
    before = torch.cat((before_group[:, :, None], after[:, :, :-1]), dim=2)
    return before.flatten(1, 2)[:, :chunks]
