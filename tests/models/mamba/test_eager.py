"""The short cut past torch's dispatcher: taken when nobody watches operations, and with the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from umamba.models.mamba.kernels.eager import as_function, is_watched


def forward(a, b, double):
    return a * b * (2 if double else 1), torch.zeros(0)


def backward(grad, starts, a, b, double):
    grad = grad * (2 if double else 1)
    return grad * b, None if b is None else grad * a


def test_gradients_pass_through_the_function():
    function = as_function("Product", forward, forward, backward, tensors=2)
    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for double in (False, True):
        assert torch.autograd.gradcheck(lambda a, b, d=double: function(a, b, d), (a, b))
    with torch.no_grad():
        assert torch.equal(function(a, b, True), 2 * a * b)


def test_second_derivatives_are_refused_rather_than_wrong():
    function = as_function("Product", forward, forward, backward, tensors=2)
    a = torch.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="Product has no second derivative.*backend 'reference'"):
        torch.autograd.grad(function(a, torch.ones(3), False).sum(), a, create_graph=True)


def test_operations_are_seen_by_whoever_watches():
    x = torch.zeros(2)
    assert not is_watched(x)
    assert is_watched(torch.nn.Parameter(x))  # a subclass may be anything
    for mode in (FlopCounterMode(display=False), FakeTensorMode()):
        with mode:
            assert is_watched(x)
    assert not is_watched(x)
    assert torch.func.vmap(lambda row: row.new_tensor(is_watched(row)))(torch.zeros(2, 3)).all()
    seen = []

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(x):
        seen.append(is_watched(x))
        return x + 1

    compiled(x)
    assert seen == [True]
