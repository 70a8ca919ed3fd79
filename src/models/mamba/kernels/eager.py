"""Calls in eager mode that pass by torch's dispatcher.

The scan and the block are torch operations for the sake of torch.compile, operation counters and whatever else watches
or replaces operations. With nobody watching, an autograd function of the same passes saves the dispatcher's tenth of a
millisecond, which is as long as a short sequence takes on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Operation = Callable[..., tuple[Tensor, Tensor]]  # what `Forward` is, through the dispatcher
Forward = Callable[..., tuple[Tensor, Tensor]]  # inputs -> output, what backward needs besides
Backward = Callable[..., tuple[Tensor | None, ...]]  # gradient, the latter, inputs -> gradients of the tensor inputs


def is_watched(x: Tensor) -> bool:
    """Whether a compiler, a dispatch mode (operation counter, fake tensors), a transform of torch.func or a tensor
    subclass has to see them.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or type(x) is not Tensor
    )


def as_function(
    name: str, operation: Operation, forward: Forward, backward: Backward, tensors: int
) -> Callable[..., Tensor]:
    """A differentiable function to the output alone: `operation` if it is watched, else the same passes directly.

    Of its inputs, all by position, the first `tensors` are tensors or None and the others are flags; -2 stands for any
    number of tensors before two flags.
    """

    def keep(ctx: Any, *inputs: Any) -> Tensor:
        output, kept = forward(*inputs)
        ctx.save_for_backward(kept, *inputs[:tensors])
        ctx.flags = inputs[tensors:]
        return output

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable would leave out what goes through the inputs
            raise RuntimeError(
                f"{name} has no second derivative, which create_graph=True asks for; use backend 'reference' for it."
            )
        with torch.autocast(grad.device.type, enabled=False):  # a caller's would change the dtype of products
            return (*backward(grad, *ctx.saved_tensors, *ctx.flags), *[None] * len(ctx.flags))

    methods = {"forward": staticmethod(keep), "backward": staticmethod(gradients)}
    function = type(name, (torch.autograd.Function,), methods)
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]  # what Function.apply comes to outside torch.func

    def run(x: Tensor, *others: Tensor | bool | None) -> Tensor:
        inputs = (x, *others)
        if is_watched(x):
            return operation(*inputs)[0]
        return apply(*inputs) if torch.is_grad_enabled() else forward(*inputs)[0]

    return run
