"""What the parts of the scan's benchmark share: inputs and passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from umamba.models.mamba.scan import selective_scan as scan

STATES = 16
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def make_inputs(shape: tuple[int, int, int], device: str, kind: str = "random", seed: int = 0) -> dict[str, Tensor]:
    """Random inputs; "trained": A = -1 ... -16 and step sizes from 1e-5 (memory of 1e5 tokens) to 10 (none)."""
    batch, channels, length = shape
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    inputs = {
        "u": normal(batch, length, channels),
        "delta": 0.5 * normal(batch, length, channels),
        "A": -torch.arange(1.0, STATES + 1, device=device).repeat(channels, 1),
        "B": normal(batch, length, STATES),
        "C": normal(batch, length, STATES),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels) - 4,
    }
    if kind == "random":
        inputs["A"] = -torch.exp(normal(channels, STATES))
    else:
        inputs["delta_bias"] = torch.linspace(-11.5, 10, channels, device=device)
    return inputs


def forward_and_backward(scan_function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> dict[str, Callable]:
    """Closures that run the forward pass without gradients, and both passes."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    weight = torch.randn_like(inputs["u"])

    def forward() -> Tensor:
        with torch.no_grad():
            return scan_function(**inputs)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(scan_function(**leaves), list(leaves.values()), weight)

    return {"forward": forward, "both": both}


def ours(backend: str) -> Callable[..., Tensor]:
    return lambda **inputs: scan.selective_scan(**inputs, delta_softplus=True, backend=backend)
