"""The Triton scan in torch: an operation with fake tensors, gradients and operation counts, and its eager short cut.

umamba::selective_scan and its backward are opaque to the compiler, so that a compiled network keeps one graph around
them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from umamba.models.mamba.kernels.eager import as_function, like_each
from umamba.models.mamba.kernels.scan_backward import scan_backward
from umamba.models.mamba.kernels.scan_forward import kept_like, scan_forward


def _gradients(
    grad: Tensor,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors in their order, some of them views of one another."""
    got = scan_backward(grad, u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept)
    grad_B, grad_C = got.small.chunk(2, -1)
    if B.dtype != grad_B.dtype or C.dtype != grad_C.dtype:
        grad_B, grad_C = grad_B.to(B.dtype), grad_C.to(C.dtype)
    grad_D = None if D is None else got.skip
    grad_bias = None if delta_bias is None else got.bias
    return got.u, got.delta, got.A, grad_B, grad_C, grad_D, got.z, grad_bias


@torch.library.custom_op("umamba::selective_scan", mutates_args=(), device_types="cuda")
def operation(
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
    """`scan.selective_scan` with A, D and delta_bias in float32; also returns what backward needs of the chunks."""
    return scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


@torch.library.custom_op("umamba::selective_scan_backward", mutates_args=(), device_types="cuda")
def operation_backward(
    grad: Tensor,
    kept: Tensor,
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
    """Gradients of those tensors that are given, in their order."""
    got = _gradients(grad, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    fresh = (0, 1, 6)  # of u, delta and z; operations may not return views of one another, as the others are
    return [
        t if i in fresh else t.clone(memory_format=torch.contiguous_format) for i, t in enumerate(got) if t is not None
    ]


@operation.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    return u.new_empty(u.shape), kept_like(u, A)


operation_backward.register_fake(lambda grad, kept, *inputs: like_each(*inputs[:-1]))


def _setup(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus = inputs
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    kept, *tensors = ctx.saved_tensors
    got = iter(operation_backward(grad, kept, *tensors, ctx.delta_softplus))
    return *(None if t is None else next(got) for t in tensors), None


operation.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.umamba.selective_scan)
def scan_flops(u, delta, A, *args, out_shape=None, **kwargs) -> int:
    """Six operations per token, channel and state: decay (2, exp2 as one), update (2), output (2)."""
    return 6 * u[0] * u[1] * A[0] * A[1]


@register_flop_formula(torch.ops.umamba.selective_scan_backward)
def _(grad, kept, u, delta, A, *args, out_shape=None, **kwargs) -> int:
    return 2 * scan_flops(u, delta, A)


# `scan.selective_scan` with A, D and delta_bias in float32, all arguments by position, on a CUDA device
selective_scan = as_function("SelectiveScan", operation, scan_forward, _gradients, tensors=8)
