"""The torch backend against the sequential recurrence and against finite differences."""

from __future__ import annotations

import pytest
import torch
from scan_inputs import make_inputs, relative, value_and_gradients

from umamba.models.mamba.scan.reference import reference_scan
from umamba.models.mamba.scan.torch_scan import torch_scan


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 2), (1, 100, 7, 64), (2, 1000, 5, 16), (1, 4100, 9, 16)])
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
