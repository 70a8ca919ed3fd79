"""One function in front of every implementation of the selective scan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from umamba.models.mamba.scan.choice import choose_backend
from umamba.models.mamba.scan.reference import reference_scan
from umamba.models.mamba.scan.torch_scan import torch_scan
from umamba.models.mamba.scan.unrolled import unrolled_scan

MAX_STATE = 64


def check_scan_inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Check the shapes and devices that every backend relies on.

    Raises:
        ValueError: naming the argument, the shape or device expected and the one that came.
    """
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(
            f"u must be (batch, L, d_inner) and A (d_inner, d_state), but they are {tuple(u.shape)}, {tuple(A.shape)}."
        )
    batch, length, channels = u.shape
    states = A.shape[1]
    if not 1 <= states <= MAX_STATE:
        raise ValueError(f"d_state must be 1 to {MAX_STATE}, but A has shape {tuple(A.shape)}, so d_state is {states}.")
    if min(u.shape) < 1:
        raise ValueError(f"u must hold at least one batch entry, token and channel, but its shape is {tuple(u.shape)}.")
    tokens, per_state, per_channel = (batch, length, channels), (batch, length, states), (channels,)
    device = u.device
    for name, tensor, shape in (
        ("delta", delta, tokens),
        ("A", A, (channels, states)),
        ("B", B, per_state),
        ("C", C, per_state),
        ("D", D, per_channel),
        ("z", z, tokens),
        ("delta_bias", delta_bias, per_channel),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} for u of shape {tokens}, but it has {tuple(tensor.shape)}."
            )
        if tensor.device != device:
            raise ValueError(f"{name} must be on {device} like u, but it is on {tensor.device}.")


def refuse_nan(A: Tensor) -> None:
    """See that a matrix of decays is one, which costs a wait for the device (else ValueError)."""
    if A.isnan().any():
        raise ValueError(f"A holds NaN in {int(A.isnan().sum())} of its {A.numel()} entries; A_log has diverged.")


def _triton_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
) -> Tensor:  # fmt: skip
    # Imports Triton, which a CPU installation need not have
    from umamba.models.mamba.kernels.scan_op import selective_scan as launch_scan

    D = None if D is None else D.float()
    delta_bias = None if delta_bias is None else delta_bias.float()
    return launch_scan(u, delta, A.float(), B, C, D, z, delta_bias, delta_softplus)


def _mamba_ssm_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
) -> Tensor:  # fmt: skip
    """mamba-ssm's CUDA kernel, which works on (batch, channels, L)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, B, C = (t.transpose(1, 2).contiguous() for t in (u, delta, B, C))
    z = None if z is None else z.transpose(1, 2).contiguous()
    D, delta_bias = (None if t is None else t.float() for t in (D, delta_bias))
    return selective_scan_fn(u, delta, A.float(), B, C, D, z, delta_bias, delta_softplus).transpose(1, 2)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "triton": _triton_scan,
    "mamba_ssm": _mamba_ssm_scan,
    "torch": torch_scan,
    "reference": reference_scan,
    "unrolled": unrolled_scan,
}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Selective state-space scan of Mamba-1 (arXiv 2312.00752, equation 2) on channels-last sequences.

    Args:
        u: input, (batch, L, d_inner).
        delta: step size before bias and softplus, (batch, L, d_inner).
        A: (d_inner, d_state), negative for a decaying state.
        B: (batch, L, d_state).
        C: (batch, L, d_state).
        D: skip weight, (d_inner,).
        z: gate before SiLU, (batch, L, d_inner).
        delta_bias: (d_inner,).
        delta_softplus: whether delta + delta_bias passes through softplus.
        backend: one of `choice.BACKENDS`; see `choice.choose_backend`.

    Returns:
        (batch, L, d_inner) in the dtype of u; the state is float32 (float64 for float64 inputs).

    Raises:
        ValueError: for an unknown or unusable backend, a shape or device that does not fit u, and d_state outside 1 to
            64.
        RuntimeError, ImportError: see `choice.choose_backend`.
    """
    check_scan_inputs(u, delta, A, B, C, D, z, delta_bias)
    name = choose_backend(backend, u.device.type, u.device.index, torch.float64 in (u.dtype, delta.dtype, A.dtype))
    return IMPLEMENTATIONS[name](u, delta, A, B, C, D, z, delta_bias, delta_softplus)
