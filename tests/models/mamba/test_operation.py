"""What `as_operation` makes of two passes: schemas, shapes without values and gradients, as torch expects them."""

from __future__ import annotations

import pytest
import torch
from torch._library.custom_ops import _maybe_get_opdef

from umamba.models.mamba.kernels.operation import as_operation

INPUTS = "Tensor x, Tensor weight, Tensor? shift, Tensor? unread, float power"


def forward(x, weight, shift, unread, power):
    """power x weight + shift, and what the backward pass wants besides."""
    return power * x * weight + (0 if shift is None else shift), torch.full((2,), power)


def backward(grad, kept, x, weight, shift, power):
    """The gradients of weight and shift are views of one tensor."""
    both = torch.stack([power * x * grad, grad], -1)
    assert kept is None or torch.equal(kept, torch.full((2,), power))
    return power * weight * grad, both[..., 0], None if shift is None else both[..., 1]


def make(name, takes):
    """The operation, with kernels for the CPU."""
    made = as_operation(
        name, INPUTS, forward, backward, lambda x, *others: (x.new_empty(x.shape), x.new_empty(2)), (0,), takes
    )
    for suffix in ("", "_backward"):
        definition = _maybe_get_opdef(f"umamba::{name}{suffix}")
        definition.register_kernel("cpu", lambda *values, run=definition._init_fn: run(*values))
    return made


@pytest.mark.parametrize("half", ["", "half, "], ids=["kept nothing", "kept half"])
def test_is_what_torch_expects(half):
    name = "test_scaled" if half else "test_scaled_alone"
    operation = make(name, f"grad, {half}x, weight, shift, power")
    backward_schema = str(getattr(torch.ops.umamba, f"{name}_backward").default._schema)
    asked = "Tensor grad, " + ("Tensor half, " if half else "")
    assert backward_schema.endswith(f"({asked}Tensor x, Tensor weight, Tensor? shift, float power) -> Tensor[]")
    x, weight, shift, unread = torch.randn(4, 3, 5, requires_grad=True).unbind()
    for given in ((shift, unread), (None, unread), (shift, None)):
        torch.library.opcheck(operation, (x, weight, *given, 2.0))


def test_a_tensor_that_the_backward_pass_does_not_take_has_the_gradient_zero():
    operation = make("test_zero", "grad, x, weight, shift, power")
    leaves = [t.requires_grad_() for t in torch.randn(4, 3)]
    got = torch.autograd.grad(operation(*leaves, 3.0)[0].sum(), leaves)
    x, weight, *_ = leaves
    for gradient, expected in zip(got, (3 * weight, 3 * x, torch.ones(3), torch.zeros(3)), strict=True):
        assert torch.equal(gradient, expected)
