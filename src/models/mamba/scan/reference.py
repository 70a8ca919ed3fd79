"""Mamba-1 written plainly, scan and block: the yardstick of every faster backend.

Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752), equations 2a and 2b,
discretised as in their code: the decay is exp(delta A), the input delta B u (Euler).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def one_by_one(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """y_t = <C_t, h_t> with h_t = exp(delta_t A) h_{t-1} + x_t B_t: (batch, L, d_inner), arguments as the scan's."""
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])  # (batch, d_inner, d_state)
    outputs = []
    # unbind, not x[:, t]: the gradient of one such slice is as large as x
    for x_t, delta_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, delta, B, C)), strict=True):
        h = torch.exp(delta_t.unsqueeze(-1) * A) * h + x_t.unsqueeze(-1) * B_t.unsqueeze(1)
        outputs.append((h * C_t.unsqueeze(1)).sum(-1))
    return torch.stack(outputs, dim=1)


def reference_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    recurrence: Callable[..., Tensor] = one_by_one,
) -> Tensor:
    """Run the recurrence one token at a time, in float64 if any input is float64 and in float32 otherwise.

    With h of shape (batch, d_inner, d_state) starting at zero, for every token t

        h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = <C_t, h_t> + D u_t        out_t = y_t silu(z_t)

    Arguments and result are those of `selective_scan`; another `recurrence` computes the sums in another order.
    """
    dtype = torch.float64 if torch.float64 in (u.dtype, delta.dtype, A.dtype) else torch.float32
    x, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    y = recurrence(delta * x, delta, A, B, C)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)


class Weights(NamedTuple):
    """Parameters of a Mamba block in the order in which the fused block takes them, shapes as in `block.Mamba`."""

    in_proj: Tensor
    conv: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_proj: Tensor


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise causal convolution along a channels-last sequence, without transposing it.

    Args:
        x: (batch, L, channels).
        weight: (channels, 1, width), as nn.Conv1d keeps it.
        bias: (channels,).

    Returns:
        (batch, L, channels); y_t = bias + sum_k weight_k x_{t - width + 1 + k}, with zeros before the first token.
    """
    width = weight.shape[-1]
    padded = F.pad(x, (0, 0, width - 1, 0))
    y = bias.expand_as(x)
    for k in range(width):
        y = torch.addcmul(y, padded[:, k : k + x.shape[1]], weight[:, 0, k])
    return y


def reference_block(x: Tensor, w: Weights, scan: Callable[..., Tensor] = reference_scan) -> Tensor:
    """The block of Gu & Dao (arXiv 2312.00752, figure 3) in plain operations, in the dtype of its inputs.

    in_proj -> causal convolution and SiLU -> selective scan, gated by SiLU(z) -> out_proj

    Args:
        x: (batch, L, d_model).
        w: parameters, in the dtype of x.
        scan: called as `selective_scan`, arguments by position.

    Returns:
        (batch, L, d_model).
    """
    rank, states = w.dt_proj.shape[1], w.A_log.shape[1]
    u, z = F.linear(x, w.in_proj).chunk(2, dim=-1)  # (batch, L, d_inner) each
    u = F.silu(causal_conv(u, w.conv, w.conv_bias))
    dt, B, C = F.linear(u, w.x_proj).split([rank, states, states], dim=-1)
    delta = F.linear(dt, w.dt_proj)
    y = scan(u, delta, -torch.exp(w.A_log), B, C, w.D, z, w.dt_bias, True)
    return F.linear(y, w.out_proj)
