"""Operations with gradients as `as_operation` makes them: what the scan, the block and the layer norm are to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from umamba.models.mamba.kernels import eager


def forward(x: Tensor, scale: Tensor, offset: Tensor | None, negative: bool) -> tuple[Tensor, Tensor]:
    """(N, C) scaled and shifted per channel, and the sign; `offset` is halved, for a gradient of its own."""
    sign = x.new_full((1,), -1.0 if negative else 1.0)
    y = x * scale * sign
    return (y if offset is None else y + offset / 2), sign


def backward(
    grad: Tensor, sign: Tensor, x: Tensor, scale: Tensor, offset: Tensor | None, negative: bool
) -> tuple[Tensor | None, ...]:
    sums = torch.stack([(grad * x * sign).sum(0), grad.sum(0) / 2])  # two gradients in one tensor, as the kernels leave
    return (grad.t() * scale[:, None] * sign).t(), sums[0], None if offset is None else sums[1]


@pytest.fixture(scope="module")
def operation() -> eager.Operation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "DEVICES", "cpu")
        return eager.as_operation(
            "operation_of_a_test",
            "Tensor x, Tensor scale, Tensor? offset, bool negative",
            forward,
            backward,
            lambda x, *others: (torch.empty_like(x), x.new_empty(1)),
        )


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_gradients_are_those_of_the_passes(operation, shifted, negative):
    inputs = [torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]
    inputs += [torch.randn(3, dtype=torch.float64)] if shifted else []
    offset = [] if shifted else [None]
    tensors = [t.requires_grad_() for t in inputs]
    assert torch.equal(operation(*tensors, *offset, negative)[0], forward(*tensors, *offset, negative)[0])
    assert torch.autograd.gradcheck(lambda *given: operation(*given, *offset, negative)[0], tensors)


def test_a_compiler_sees_what_it_is_promised(operation):
    x, scale, offset = (torch.randn(*shape, requires_grad=True) for shape in ((5, 3), (3,), (3,)))
    torch.library.opcheck(operation, (x, scale, offset, True))
    torch.library.opcheck(operation, (x, scale, None, False))


def test_gradients_are_whole_tensors_of_their_own(operation):
    x, scale, offset = (torch.randn(*shape) for shape in ((5, 3), (3,), (3,)))
    y, kept = operation(x, scale, offset, False)
    got = torch.ops.umamba.operation_of_a_test_backward(torch.ones_like(y), kept, x, scale, offset, False)
    assert all(t.is_contiguous() for t in got)
    assert len({t.untyped_storage().data_ptr() for t in got}) == 3
