"""The Mamba block as one operation on CUDA that forms its intermediate tensors again in the backward pass.

Between forward and backward only the input and one state per chunk stay in memory. The step size is projected from
its rank-r input inside the scan kernels where r <= MAX_FUSED_RANK (the wide, long stages), so that it never passes
through memory there, and the gradients of the convolution's output, of z and of the step size overwrite the tensors
they belong to.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .triton_conv import conv_silu, conv_silu_backward
from .triton_scan import scan_backward, scan_forward, state_shape

MAX_FUSED_RANK = 4  # above, one read of delta per channel costs less than projecting it again in every pass


def _prepare(
    x: Tensor,
    in_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    A_log: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """xz (batch, L, 2 d_inner), u, rows of B, C and step input, what the scan reads as delta, A, dt_weight if it
    projects it.
    """
    batch, length, _ = x.shape
    inner, rank = dt_weight.shape
    states = A_log.shape[1]
    xz = x @ in_weight.t()
    u = conv_silu(xz[..., :inner], conv_weight, conv_bias)
    # B, C, step size and padding to rows of 16-byte multiples, which vector loads need
    small = x.new_empty(batch * length, -(-(rank + 2 * states) // 4) * 4)
    torch.mm(u.view(-1, inner), x_weight.roll(-rank, 0).t(), out=small[:, : rank + 2 * states])
    small = small.view(batch, length, -1)
    delta = small[..., 2 * states : 2 * states + rank]
    fused = rank <= MAX_FUSED_RANK
    delta = delta if fused else delta @ dt_weight.t()
    return xz, u, small, delta, -torch.exp(A_log.float()), dt_weight if fused else None


@torch.library.custom_op("umamba::mamba_block", mutates_args=(), device_types="cuda")
def mamba_block(
    x: Tensor,
    in_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mamba block on x (batch, L, d_model) float32 with the weights of `block.Mamba`: (batch, L, d_model), chunk
    states.
    """
    xz, u, small, delta, A, weight = _prepare(x, in_weight, conv_weight, conv_bias, x_weight, dt_weight, A_log)
    B, C = small[..., : A.shape[1]], small[..., A.shape[1] : 2 * A.shape[1]]
    z = xz[..., dt_weight.shape[0] :]
    y, starts = scan_forward(u, delta, A, B, C, D, z, dt_bias, True, weight=weight, out=u)
    return y @ out_weight.t(), starts


@torch.library.custom_op("umamba::mamba_block_backward", mutates_args=(), device_types="cuda")
def mamba_block_backward(
    grad: Tensor,
    starts: Tensor,
    x: Tensor,
    in_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
) -> list[Tensor]:
    """Gradients of x and the nine weights, in the order of the arguments."""
    inner, rank = dt_weight.shape
    states = A_log.shape[1]
    xz, u, small, delta, A, weight = _prepare(x, in_weight, conv_weight, conv_bias, x_weight, dt_weight, A_log)
    B, C = small[..., :states], small[..., states : 2 * states]
    y = grad @ out_weight  # gradient of the gated scan output; the scan's backward pass replaces it by that output
    z = xz[..., inner:]
    got = scan_backward(y, u, delta, A, B, C, D, z, dt_bias, True, starts, weight=weight, in_place=True)
    grad_small = got.small  # (batch, L, 2 d_state [+ rank])
    if weight is None:
        step_input = small[..., 2 * states : 2 * states + rank]
        grad_dt_weight = got.delta.flatten(0, 1).t() @ step_input.flatten(0, 1)
        grad_small = torch.cat([grad_small, got.delta @ dt_weight], dim=-1)
    else:
        grad_dt_weight = got.weight
    del B, C, delta, small  # a third of a gigabyte each at full resolution, and the peak lies ahead
    grad_out_weight = grad.flatten(0, 1).t() @ y.flatten(0, 1)
    grad_u = got.u.view(-1, inner)
    grad_u.addmm_(grad_small.flatten(0, 1), x_weight.roll(-rank, 0))
    u = conv_silu(xz[..., :inner], conv_weight, conv_bias, out=y)  # its first copy holds its gradient by now
    grad_x_weight = (grad_small.flatten(0, 1).t() @ u.view(-1, inner)).roll(rank, 0)
    del grad_small
    grad_h, grad_conv_weight, grad_conv_bias = conv_silu_backward(
        got.u, xz[..., :inner], conv_weight, conv_bias, grad_x=y
    )
    rows, grad_h, grad_z = x.flatten(0, 1), grad_h.view(-1, inner), got.z.flatten(0, 1)
    grad_x = torch.mm(grad_h, in_weight[:inner]).addmm_(grad_z, in_weight[inner:]).view_as(x)
    grad_in_weight = torch.cat([grad_h.t() @ rows, grad_z.t() @ rows])
    views = [
        got.bias,
        got.A * A,  # dA / dA_log = A
        got.skip,
    ]
    small_views = [grad_conv_weight, grad_conv_bias, grad_x_weight, grad_dt_weight]
    # operations may not return views of one another
    small_views, views = (
        [t.clone(memory_format=torch.contiguous_format) for t in part] for part in (small_views, views)
    )
    return [grad_x, grad_in_weight, *small_views, *views, grad_out_weight]


@mamba_block.register_fake
def _(x, in_weight, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, out_weight):
    starts = state_shape(x.shape[0], x.shape[1], *A_log.shape)
    return x.new_empty(x.shape), x.new_empty(starts, dtype=torch.float32)


@mamba_block_backward.register_fake
def _(grad, starts, *inputs):
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1], *inputs)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(mamba_block_backward(grad.contiguous(), *ctx.saved_tensors))


mamba_block.register_autograd(_backward, setup_context=_setup)


def block_flops(x_shape, in_shape, conv_shape, x_proj_shape, dt_shape, A_shape, out_shape) -> int:
    """Multiply-adds times two of one forward pass: the projections, the convolution and 6 operations per state and
    token.
    """
    tokens = x_shape[0] * x_shape[1]
    matrices = (in_shape, x_proj_shape, dt_shape, out_shape)
    per_token = sum(2 * a * b for a, b in matrices) + 2 * conv_shape[0] * conv_shape[2] + 6 * A_shape[0] * A_shape[1]
    return tokens * per_token


@register_flop_formula(torch.ops.umamba.mamba_block)
def _(x, in_w, conv_w, conv_b, x_w, dt_w, dt_b, A_log, D, out_w, *args, out_shape=None, **kwargs) -> int:
    return block_flops(x, in_w, conv_w, x_w, dt_w, A_log, out_w)


@register_flop_formula(torch.ops.umamba.mamba_block_backward)
def _(grad, starts, x, in_w, conv_w, conv_b, x_w, dt_w, dt_b, A_log, D, out_w, *args, out_shape=None, **kwargs) -> int:
    return 2 * block_flops(x, in_w, conv_w, x_w, dt_w, A_log, out_w)
