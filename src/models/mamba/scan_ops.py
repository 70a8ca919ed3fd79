"""The Triton scan as torch operations: fake tensors for torch.compile, gradients for autograd, operation counts.

umamba::selective_scan and its backward are opaque to the compiler, so that a compiled network keeps one graph around
them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .triton_scan import scan_backward, scan_forward, state_shape


@torch.library.custom_op("umamba::selective_scan", mutates_args=(), device_types="cuda")
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """`scan.selective_scan` with A, D and delta_bias in float32; also returns the states that backward needs."""
    return scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


@torch.library.custom_op("umamba::selective_scan_backward", mutates_args=(), device_types="cuda")
def selective_scan_backward(
    grad: Tensor,
    starts: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """Gradients of u, delta, A, B, C, D, delta_bias and, if given, z."""
    got = scan_backward(grad, u, delta, A, B, C, D, z, delta_bias, delta_softplus, starts)
    states = A.shape[1]
    grad_B, grad_C = (
        part.to(B.dtype).clone(memory_format=torch.contiguous_format) for part in got.small.split(states, dim=-1)
    )
    gradients = [got.u, got.delta, got.A.clone(memory_format=torch.contiguous_format), grad_B, grad_C]
    gradients += [got.skip.clone(), got.bias.clone()]
    return gradients if got.z is None else [*gradients, got.z]


@selective_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    starts = state_shape(u.shape[0], u.shape[1], *A.shape)
    return u.new_empty(u.shape), u.new_empty(starts, dtype=torch.float32)


@selective_scan_backward.register_fake
def _(grad, starts, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    vector = A.new_empty(A.shape[:1])
    gradients = [u.new_empty(u.shape), delta.new_empty(u.shape), A.new_empty(A.shape), B.new_empty(B.shape)]
    gradients += [B.new_empty(B.shape), vector, torch.empty_like(vector)]
    return gradients if z is None else [*gradients, z.new_empty(z.shape)]


def _setup(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus = inputs
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    starts, u, delta, A, B, C, D, z, bias = ctx.saved_tensors
    got = selective_scan_backward(grad, starts, u, delta, A, B, C, D, z, bias, ctx.delta_softplus)
    grad_D, grad_bias = (None if t is None else g for t, g in ((D, got[5]), (bias, got[6])))
    return *got[:5], grad_D, None if z is None else got[7], grad_bias, None


selective_scan.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.umamba.selective_scan)
def scan_flops(u, delta, A, *args, out_shape=None, **kwargs) -> int:
    """Six operations per token, channel and state: decay (2, exp2 as one), update (2), output (2)."""
    return 6 * u[0] * u[1] * A[0] * A[1]


@register_flop_formula(torch.ops.umamba.selective_scan_backward)
def _(grad, starts, u, delta, A, *args, out_shape=None, **kwargs) -> int:
    return 2 * scan_flops(u, delta, A)
