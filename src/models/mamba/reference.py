"""The selective state-space recurrence of Mamba-1, written step by step: the yardstick of every faster backend.

Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752), equations 2a and 2b,
discretised as in their code: the decay is exp(delta A), the input delta B u (Euler).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
) -> Tensor:
    """Run the recurrence one token at a time, in float64 if any input is float64 and in float32 otherwise.

    With h of shape (batch, d_inner, d_state) starting at zero, for every token t

        h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = <C_t, h_t> + D u_t        out_t = y_t silu(z_t)

    Args:
        u: input, (batch, L, d_inner).
        delta: step size before bias and softplus, (batch, L, d_inner).
        A: (d_inner, d_state), negative for a decaying state.
        B: (batch, L, d_state).
        C: (batch, L, d_state).
        D: skip weight, (d_inner,).
        z: gate before SiLU, (batch, L, d_inner).
        delta_bias: (d_inner,).
        delta_softplus: whether delta passes through softplus.

    Returns:
        (batch, L, d_inner) in the dtype of u.
    """
    dtype = torch.float64 if torch.float64 in (u.dtype, delta.dtype, A.dtype) else torch.float32
    x, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])  # (batch, d_inner, d_state)
    outputs = []
    # unbind, not x[:, t]: the gradient of one such slice is as large as x
    for x_t, delta_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, delta, B, C)), strict=True):
        h = torch.exp(delta_t.unsqueeze(-1) * A) * h + (delta_t * x_t).unsqueeze(-1) * B_t.unsqueeze(1)
        outputs.append((h * C_t.unsqueeze(1)).sum(-1))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)
