"""Which implementation of the selective scan runs: asked for by name, or the fastest that passes its check."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch

BACKENDS = ("auto", "triton", "mamba_ssm", "torch", "reference", "unrolled")

log = logging.getLogger(__name__)


def check_backend_name(backend: str) -> None:
    """See that there is such a backend (else ValueError)."""
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
        from umamba.models.mamba.scan.selfcheck import check  # imports Triton, which a CPU installation need not have

        fault = check(device_of(device_type, device_index))
        if fault and backend == "triton":
            raise RuntimeError(f"Scan backend 'triton' refused: {fault}. Use backend 'torch', or 'auto' to fall back.")
        if fault:
            log.warning("The scan falls back to the slower torch backend: %s.", fault)
            chosen = "torch"
    log.info("Selective scan on %s: backend %s (setting: %s).", device_type, chosen, backend)
    return chosen


@torch.compiler.assume_constant_result
def half_usable(device_type: str, device_index: int | None, dtype: torch.dtype) -> bool:
    """Whether layer norm and fused block passed their check in a half precision on a device, too."""
    return _half_choice(device_type, device_index, dtype)


@functools.cache
def _half_choice(device_type: str, device_index: int | None, dtype: torch.dtype) -> bool:
    from umamba.models.mamba.scan.selfcheck import HALF_ERRORS, check  # imports Triton

    fault = check(device_of(device_type, device_index), HALF_ERRORS[dtype])
    if fault:
        log.warning("Mamba layers compute in float32 throughout, which is slower: %s.", fault)
    return not fault


def device_of(device_type: str, device_index: int | None) -> torch.device:
    """The device of the type with this number, or without one the present device."""
    return torch.device(device_type) if device_index is None else torch.device(device_type, device_index)
