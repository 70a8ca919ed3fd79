"""Calls in eager mode that pass by torch's dispatcher.

The scan and the block are torch operations for the sake of torch.compile, operation counters and whatever else watches
or replaces operations. With nobody watching, an autograd function of the same passes saves the dispatcher's tenth of a
millisecond, which is as long as a short sequence takes on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Operation = Callable[..., tuple[Tensor, Tensor]]  # what `Forward` is, through the dispatcher
Forward = Callable[..., tuple[Tensor, Tensor]]  # inputs -> output, chunk states
Backward = Callable[..., tuple[Tensor | None, ...]]  # gradient, chunk states, inputs -> gradients of the tensor inputs


def is_watched(x: Tensor) -> bool:
    """Whether a compiler, a dispatch mode (operation counter, fake tensors) or a tensor subclass has to see them."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or type(x) is not Tensor


def as_function(name: str, operation: Operation, forward: Forward, backward: Backward) -> Callable[..., Tensor]:
    """A differentiable function to the output alone: `operation` if it is watched, else the same passes directly.

    The direct way keeps inputs and chunk states from `forward` for `backward`.
    """

    def keep(ctx: FunctionCtx, *inputs: Tensor | bool | None) -> Tensor:
        output, starts = forward(*inputs)
        ctx.save_for_backward(starts, *(i for i in inputs if not isinstance(i, bool)))
        ctx.flags = [i for i in inputs if isinstance(i, bool)]
        return output

    def gradients(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable would leave out what goes through the inputs
            raise RuntimeError(
                f"{name} has no second derivative, which create_graph=True asks for; use backend 'reference' for it."
            )
        return (*backward(grad, *ctx.saved_tensors, *ctx.flags), *(None for _ in ctx.flags))

    methods = {"forward": staticmethod(keep), "backward": staticmethod(gradients)}
    function = type(name, (torch.autograd.Function,), methods)

    def run(*inputs: Tensor | bool | None) -> Tensor:
        if is_watched(inputs[0]):
            return operation(*inputs)[0]
        return function.apply(*inputs) if torch.is_grad_enabled() else forward(*inputs)[0]

    return run
