"""The torch backend against the sequential recurrence and against finite differences."""

from __future__ import annotations

import pytest
import torch

from src.models.mamba.reference import reference_scan
from src.models.mamba.torch_scan import torch_scan


def make_inputs(batch, length, channels, states, dtype=torch.float64, kind="random", seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = dict(
        u=normal(batch, length, channels),
        delta=normal(batch, length, channels),
        A=-torch.exp(normal(channels, states)),
        B=normal(batch, length, states),
        C=normal(batch, length, states),
        D=normal(channels),
        z=normal(batch, length, channels),
        delta_bias=normal(channels),
    )
    if kind == "trained":  # states 1..N as initialised, steps from 1e-5 (memory of thousands of tokens) to 10 (none)
        inputs["A"] = -torch.arange(1, states + 1, dtype=torch.float64).repeat(channels, 1)
        inputs["delta_bias"] = torch.linspace(-11.5, 10, channels, dtype=torch.float64)
    return {name: value.to(dtype) for name, value in inputs.items()}


def value_and_gradients(scan, inputs, weight):
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    out = scan(**leaves, delta_softplus=True)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), list(leaves.values()))]


def relative(a, b):
    return ((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 2), (1, 100, 7, 64), (2, 1000, 5, 16), (1, 9000, 9, 16)])
def test_agrees_with_the_recurrence(shape, kind):
    inputs = make_inputs(*shape, kind=kind)
    weight = torch.randn(shape[:3], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = value_and_gradients(reference_scan, inputs, weight)
    for dtype, bound in [(torch.float64, 1e-12), (torch.float32, 1e-5)]:
        cast = {name: value.to(dtype) for name, value in inputs.items()}
        for got, want in zip(value_and_gradients(torch_scan, cast, weight.to(dtype)), expected, strict=True):
            assert relative(got, want) < bound


def test_gradients_are_those_of_finite_differences():
    inputs = [value.requires_grad_() for value in make_inputs(2, 37, 2, 3).values()]
    assert torch.autograd.gradcheck(lambda *a: torch_scan(*a, True), inputs)
