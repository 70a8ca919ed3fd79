"""The Mamba block as one operation on CUDA that forms its intermediate tensors again in the backward pass.

Between forward and backward only the input and one state per chunk stay in memory. The step size is projected from
its rank-r input inside the scan kernels where r <= MAX_FUSED_RANK (the wide, long stages), so that it never passes
through memory there, and the gradients of the convolution's output, of z and of the step size overwrite the tensors
they belong to. With half-precision inputs, maps and products are in half precision; step sizes, states and all sums are
in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from umamba.models.mamba.kernels.conv import conv_silu, conv_silu_backward, edge_shape
from umamba.models.mamba.kernels.eager import as_function
from umamba.models.mamba.kernels.operation import as_operation
from umamba.models.mamba.kernels.scan_backward import scan_backward
from umamba.models.mamba.kernels.scan_forward import kept_like, scan_forward
from umamba.models.mamba.kernels.widen import padded_rows
from umamba.models.mamba.scan.reference import Weights

MAX_FUSED_RANK = 4  # above, one read of delta per channel costs less than projecting it again in every pass


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32; of half-precision matrices on tensor cores, without rounding the sums."""
    return a @ b if a.dtype == torch.float32 else torch.mm(a, b, out_dtype=torch.float32)


def _wide(x_proj: Tensor, dtype: torch.dtype) -> Tensor:
    """x_proj in `dtype` with zero rows up to a multiple of 8: half-precision products want rows of 16 bytes."""
    return F.pad(x_proj, (0, 0, 0, -len(x_proj) % 8)).to(dtype)


def _prepare(
    x: Tensor, w: Weights, edges: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """xz (batch, L, 2 d_inner) and u in the dtype of x; in float32 the step input, what the scan reads as delta, A, B,
    C, and dt_proj if the scan is to project it.
    """
    batch, length, _ = x.shape
    inner, rank = w.dt_proj.shape
    xz = x @ w.in_proj.to(x.dtype).t()
    u = conv_silu(xz[..., :inner], w.conv, w.conv_bias, edges)
    small = _product(u.view(-1, inner), _wide(w.x_proj, x.dtype).t()).view(batch, length, -1)
    step_input, B, C, _ = small.split([rank, *2 * w.A_log.shape[1:], -len(w.x_proj) % 8], dim=-1)
    fused = rank <= MAX_FUSED_RANK
    delta = step_input if fused else step_input @ w.dt_proj.t()
    return xz, u, step_input, delta, -torch.exp(w.A_log), B, C, w.dt_proj if fused else None


def block_forward(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """The block's output, and what `block_backward` needs besides the inputs."""
    w = Weights(*weights)
    xz, u, _, delta, A, B, C, projection = _prepare(x, w, None)
    y, kept = scan_forward(u, delta, A, B, C, w.D, xz[..., w.D.shape[0] :], w.dt_bias, True, weight=projection, out=u)
    return y @ w.out_proj.to(y.dtype).t(), kept


def block_backward(grad: Tensor, kept: Tensor, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x and the nine weights in their order, the latter perhaps views of one another."""
    grad = grad.contiguous()
    w = Weights(*weights)
    inner = w.D.shape[0]
    edges = x.new_empty(edge_shape(x, inner, w.conv.shape[-1]))
    xz, u, step_input, delta, A, B, C, projection = _prepare(x, w, edges)
    # Gradient of the gated scan output; the scan's backward pass replaces it by that output
    y = grad @ w.out_proj.to(grad.dtype)
    z = xz[..., inner:]
    got = scan_backward(y, u, delta, A, B, C, w.D, z, w.dt_bias, True, kept, weight=projection, in_place=True)
    grad_u, grad_small = got.u.flatten(0, 1), got.small.flatten(0, 1)  # the latter (tokens, [rank +] 2 d_state)
    if got.delta is not None:
        grad_delta = got.delta.flatten(0, 1)
        grad_dt_proj = grad_delta.t() @ step_input.flatten(0, 1)
        grad_small = torch.cat([grad_delta @ w.dt_proj, grad_small], dim=-1)
        del grad_delta
    else:
        assert got.weight is not None  # as there is a projection
        grad_dt_proj = got.weight
    grad_dt_bias, grad_A_log, grad_D = got.bias, got.A * A, got.skip  # dA / dA_log = A
    # At full resolution these are a third of a gigabyte to nearly one each, and the peak lies ahead
    del B, C, delta, step_input, u, got
    grad_out_proj = _product(grad.flatten(0, 1).t(), y.flatten(0, 1))
    used, x_proj = len(w.x_proj), w.x_proj
    if x.dtype != torch.float32:
        grad_small = padded_rows(grad_small.contiguous(), x.dtype)
        x_proj = _wide(x_proj, x.dtype)
    grad_u.addmm_(grad_small, x_proj)
    # u was overwritten by its gradient; it is formed again where y, no longer needed, was
    grad_conv, grad_conv_bias = conv_silu_backward(
        grad_u.view_as(y), xz[..., :inner], edges, w.conv, w.conv_bias, out=y
    )
    del grad_u
    grad_x_proj = _product(grad_small.t(), y.flatten(0, 1))[:used]
    del grad_small, y
    grad_xz = xz.flatten(0, 1)  # both halves hold their gradients by now
    grad_x = (grad_xz @ w.in_proj.to(x.dtype)).view_as(x)
    grad_in_proj = _product(grad_xz.t(), x.flatten(0, 1))
    return grad_x, *Weights(
        in_proj=grad_in_proj,
        conv=grad_conv,
        conv_bias=grad_conv_bias,
        x_proj=grad_x_proj,
        dt_proj=grad_dt_proj,
        dt_bias=grad_dt_bias,
        A_log=grad_A_log,
        D=grad_D,
        out_proj=grad_out_proj,
    )


_operation = as_operation(
    "mamba_block",
    "Tensor x, Tensor in_weight, Tensor conv_weight, Tensor conv_bias, Tensor x_weight, Tensor dt_weight, "
    "Tensor dt_bias, Tensor A_log, Tensor D, Tensor out_weight",
    block_forward,
    block_backward,
    fake=lambda x, *weights: (x.new_empty(x.shape), kept_like(x, Weights(*weights).A_log)),
    fresh=(0,),
)

# The block of `block.Mamba` on x (batch, L, d_model), contiguous, float32, float16 or bfloat16, on a CUDA device, and
# float32 weights in the order of `Weights`; returns (batch, L, d_model) in the dtype of x
mamba_block = as_function("MambaBlock", _operation, block_forward, block_backward, tensors=10)


def _flops(*shapes: Any, **_: Any) -> int:
    """Multiply-adds times two of one forward pass: the projections, the convolution and 6 operations per state and
    token.
    """
    x, w = shapes[0], Weights(*shapes[1:])
    matrices = (w.in_proj, w.x_proj, w.dt_proj, w.out_proj)
    per_token = sum(2 * a * b for a, b in matrices) + 2 * w.conv[0] * w.conv[2] + 6 * w.A_log[0] * w.A_log[1]
    return x[0] * x[1] * per_token


register_flop_formula(torch.ops.umamba.mamba_block)(_flops)
register_flop_formula(torch.ops.umamba.mamba_block_backward)(lambda grad, kept, *shapes, **_: 2 * _flops(*shapes))
