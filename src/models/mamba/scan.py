"""One function in front of every implementation of the selective scan, and the choice among them."""

from __future__ import annotations

from torch import Tensor

from .reference import reference_scan
from .torch_scan import torch_scan

BACKENDS = ("auto", "torch", "reference")
MAX_STATE = 64


def choose_backend(backend: str) -> str:
    """Replace "auto" by the backend that is used.

    Raises:
        ValueError: if `backend` is not one of BACKENDS.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown scan backend {backend!r}; expected one of {', '.join(BACKENDS)}.")
    return "torch" if backend == "auto" else backend


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
    arguments = {
        "delta": (delta, tokens),
        "A": (A, (channels, states)),
        "B": (B, per_state),
        "C": (C, per_state),
        "D": (D, per_channel),
        "z": (z, tokens),
        "delta_bias": (delta_bias, per_channel),
    }
    for name, (tensor, shape) in arguments.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape} for u of shape {tokens}, but it has {tuple(tensor.shape)}."
            )
        if tensor.device != u.device:
            raise ValueError(f"{name} must be on {u.device} like u, but it is on {tensor.device}.")


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
        backend: one of BACKENDS.

    Returns:
        (batch, L, d_inner) in the dtype of u; the state is float32 (float64 for float64 inputs).

    Raises:
        ValueError: for an unknown backend, a shape or device that does not fit u, or d_state outside 1 to 64.
    """
    check_scan_inputs(u, delta, A, B, C, D, z, delta_bias)
    scan = {"torch": torch_scan, "reference": reference_scan}[choose_backend(backend)]
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
