"""Inputs, gradients and error measure shared by the tests of the scan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def make_inputs(
    batch: int,
    length: int,
    channels: int,
    states: int,
    dtype: torch.dtype = torch.float64,
    kind: str = "random",
    seed: int = 0,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": -torch.exp(normal(channels, states)),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels),
    }
    if kind == "trained":  # states 1..N as initialised, steps from 1e-5 (memory of thousands of tokens) to 10 (none)
        inputs["A"] = -torch.arange(1, states + 1, dtype=torch.float64).repeat(channels, 1)
        inputs["delta_bias"] = torch.linspace(-11.5, 10, channels, dtype=torch.float64)
    return {name: value.to(dtype) for name, value in inputs.items()}


def value_and_gradients(scan: Callable[..., Tensor], inputs: dict[str, Tensor], weight: Tensor) -> list[Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    out = scan(**leaves, delta_softplus=True)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), list(leaves.values()))]


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()
