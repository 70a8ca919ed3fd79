"""One function in front of every implementation of the selective scan, and the choice among them."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch
from torch import Tensor

from .reference import reference_scan
from .torch_scan import torch_scan

BACKENDS = ("auto", "triton", "mamba_ssm", "torch", "reference")
MAX_STATE = 64

log = logging.getLogger(__name__)


def check_backend_name(backend: str) -> None:
    """Raises:
    ValueError: if `backend` is not one of BACKENDS.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown scan backend {backend!r}; expected one of {', '.join(BACKENDS)}.")


@torch.compiler.assume_constant_result
def choose_backend(backend: str, device_type: str, device_index: int | None, double: bool) -> str:
    """The backend that runs: `backend` itself, or for "auto" triton on a CUDA device that passes its check, else torch.

    The device is given as plain values so that torch.compile can take the answer as a constant; a CUDA device has an
    index.

    Raises:
        ValueError: for an unknown name, or a backend that cannot run on this device or in float64.
        RuntimeError: if "triton" was asked for and fails its check on this device.
        ImportError: if "mamba_ssm" was asked for and is not installed.
    """
    return _choice(backend, device_type, device_index, double)


@functools.cache  # so that it is said once; torch.compile would look through a cache around `choose_backend` itself
def _choice(backend: str, device_type: str, device_index: int | None, double: bool) -> str:
    check_backend_name(backend)
    cuda = device_type == "cuda"
    if backend in ("triton", "mamba_ssm") and (not cuda or double):
        raise ValueError(
            f"Scan backend {backend!r} needs float32 or narrower tensors on a CUDA device, but they are "
            f"{'float64' if double else 'float32'} on {device_type!r}; use backend 'torch' or 'auto'."
        )
    chosen = backend
    if backend == "mamba_ssm" and importlib.util.find_spec("mamba_ssm") is None:
        raise ImportError("Scan backend 'mamba_ssm' needs the package mamba-ssm: pip install 'umamba-lightning[cuda]'.")
    if backend == "auto":
        chosen = "triton" if cuda and not double else "torch"
    if chosen == "triton":
        from .selfcheck import check  # imports Triton, which a CPU installation need not have

        fault = check(torch.device(device_type, device_index))
        if fault and backend == "triton":
            raise RuntimeError(f"Scan backend 'triton' refused: {fault}. Use backend 'torch', or 'auto' to fall back.")
        if fault:
            log.warning("The scan falls back to the slower torch backend: %s.", fault)
            chosen = "torch"
    log.info("Selective scan on %s: backend %s (asked for: %s).", device_type, chosen, backend)
    return chosen


@torch.compiler.assume_constant_result
def half_usable(device_type: str, device_index: int | None) -> bool:
    """Whether layer norm and fused block passed their check in half precision on a device, too."""
    return _half_choice(device_type, device_index)


@functools.cache
def _half_choice(device_type: str, device_index: int | None) -> bool:
    from .selfcheck import check, half_errors  # imports Triton, which a CPU installation need not have

    fault = check(torch.device(device_type, device_index), half_errors)
    if fault:
        log.warning("Mamba layers compute in float32 throughout, which is slower: %s.", fault)
    return not fault


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


def _triton_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> Tensor:
    from .scan_ops import selective_scan as launch_scan  # imports Triton, which a CPU installation need not have

    D = None if D is None else D.float()
    delta_bias = None if delta_bias is None else delta_bias.float()
    return launch_scan(u, delta, A.float(), B, C, D, z, delta_bias, delta_softplus)


def _mamba_ssm_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> Tensor:
    """mamba-ssm's CUDA kernel, which works on (batch, channels, L)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, B, C = (t.transpose(1, 2).contiguous() for t in (u, delta, B, C))
    z = None if z is None else z.transpose(1, 2).contiguous()
    D, delta_bias = (None if t is None else t.float() for t in (D, delta_bias))
    return selective_scan_fn(u, delta, A.float(), B, C, D, z, delta_bias, delta_softplus).transpose(1, 2)


IMPLEMENTATIONS = {
    "triton": _triton_scan,
    "mamba_ssm": _mamba_ssm_scan,
    "torch": torch_scan,
    "reference": reference_scan,
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
    check_values: bool = False,
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
        backend: one of BACKENDS; see `choose_backend`.
        check_values: also look for NaN in A, which costs a wait for the device.

    Returns:
        (batch, L, d_inner) in the dtype of u; the state is float32 (float64 for float64 inputs).

    Raises:
        ValueError: for an unknown or unusable backend, a shape or device that does not fit u, d_state outside 1 to
            64, and NaN in A if `check_values`.
        RuntimeError, ImportError: see `choose_backend`.
    """
    check_scan_inputs(u, delta, A, B, C, D, z, delta_bias)
    if check_values and A.isnan().any():
        raise ValueError(f"A holds NaN in {int(A.isnan().sum())} of its {A.numel()} entries; A_log has diverged.")
    name = choose_backend(backend, u.device.type, u.device.index, torch.float64 in (u.dtype, delta.dtype, A.dtype))
    return IMPLEMENTATIONS[name](u, delta, A, B, C, D, z, delta_bias, delta_softplus)
