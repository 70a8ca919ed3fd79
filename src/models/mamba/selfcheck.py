"""A check of the Triton kernels against the recurrence, run once per device before they are first used.

A kernel that a new GPU or compiler gets wrong is silent: training goes on and is worse. This takes well under a
second once the kernels are compiled (they are compiled at the first use ever, and kept in Triton's cache on disk).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .reference import reference_scan

TOLERANCE = 1e-5  # relative, float32 kernel against the float64 recurrence; correct kernels stay below 1e-6


def _inputs(device: torch.device) -> list[Tensor]:
    """Two sequences of 300 tokens and 40 channels: ten chunks, the last of them short, and a partly filled block."""
    generator = torch.Generator().manual_seed(0)
    tokens, states = (2, 300, 40), (2, 300, 16)
    shapes = [tokens, tokens, (40, 16), states, states, (40,), tokens, (40,)]
    u, delta, A, B, C, D, z, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [t.to(device) for t in (u, delta, -torch.exp(A), B, C, D, z, bias - 2)]


def relative_errors(device: torch.device) -> dict[str, float]:
    """Relative error of the output and of each gradient of the Triton scan on `device`."""
    from .scan_ops import selective_scan

    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    exact = [t.requires_grad_() for t in _inputs(device)]
    weight = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    single = [t.detach().float().requires_grad_() for t in exact]
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        expected = reference_scan(*exact, delta_softplus=True)
        got = selective_scan(*single, True)
        expected_gradients = torch.autograd.grad((expected * weight).sum(), exact)
        gradients = torch.autograd.grad((got * weight.float()).sum(), single)
    pairs = {
        "output": (got, expected),
        **dict(zip(names, zip(gradients, expected_gradients, strict=True), strict=True)),
    }
    return {name: ((a.double() - b).norm() / b.norm()).item() for name, (a, b) in pairs.items()}


@functools.cache
def check(device: torch.device) -> str | None:
    """Why the Triton kernels must not be used on `device`, or None if they may."""
    try:
        with torch.inference_mode(False):
            errors = relative_errors(device)
    except ImportError as error:
        return f"Triton with Gluon is not installed ({error}); it comes with torch 2.10 or later (Triton 3.6)"
    except Exception as error:  # a compiler or driver that cannot build the kernels: any exception type
        return f"the kernels could not be built or run on {device} ({type(error).__name__}: {error})"
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE}
    if not wrong:
        return None
    listing = ", ".join(f"{name} by {error:.1e}" for name, error in wrong.items())
    return (
        f"the kernels are wrong on {torch.cuda.get_device_name(device)}: {listing} (relative; at most {TOLERANCE:.0e})"
    )
