"""The scan for export against the sequential recurrence, at lengths of one to three levels of chunks."""

from __future__ import annotations

import pytest
import torch
from scan_inputs import make_inputs, relative

from umamba.models.mamba.scan.reference import reference_scan
from umamba.models.mamba.scan.unrolled import STEPS, unrolled_scan


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 5, 3, 2), (1, STEPS, 4, 3), (2, 257, 7, 16), (1, STEPS**3 + 1, 3, 2)]
)
def test_agrees_with_the_recurrence(shape: tuple[int, ...], kind: str) -> None:
    inputs = make_inputs(*shape, kind=kind)
    expected = reference_scan(**inputs, delta_softplus=True)
    for dtype, bound in [(torch.float64, 1e-12), (torch.float32, 1e-5)]:
        cast = {name: value.to(dtype) for name, value in inputs.items()}
        assert relative(unrolled_scan(**cast, delta_softplus=True), expected) < bound
