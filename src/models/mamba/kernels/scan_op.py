"""The Triton scan in torch: an operation with fake tensors, gradients and operation counts, and its eager short cut.

umamba::selective_scan and its backward are opaque to the compiler, so that a compiled network keeps one graph around
them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from umamba.models.mamba.kernels.eager import as_function
from umamba.models.mamba.kernels.operation import as_operation
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


# `scan.selective_scan` with A, D and delta_bias in float32; also returns what backward needs of the chunks
_operation = as_operation(
    "selective_scan",
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus",
    scan_forward,
    _gradients,
    fake=lambda u, delta, A, *others: (u.new_empty(u.shape), kept_like(u, A)),
    fresh=(0, 1, 6),  # of u, delta and z
)


def _flops(u: Any, delta: Any, A: Any, *others: Any, **_: Any) -> int:
    """Six operations per token, channel and state: decay (2, exp2 as one), update (2), output (2)."""
    return 6 * u[0] * u[1] * A[0] * A[1]


register_flop_formula(torch.ops.umamba.selective_scan)(_flops)
register_flop_formula(torch.ops.umamba.selective_scan_backward)(lambda grad, kept, *shapes, **_: 2 * _flops(*shapes))

# `scan.selective_scan` with A, D and delta_bias in float32, all arguments by position, on a CUDA device
selective_scan = as_function("SelectiveScan", _operation, scan_forward, _gradients, tensors=8)
