"""Passes as operations of torch, which a compiler, operation counters and fake tensors see instead of kernels."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

from umamba.models.mamba.kernels.eager import Backward, Forward


def register(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> CustomOpDef:
    """The operation umamba::`name` on CUDA, which changes none of its inputs.

    Args:
        name: without the name of the library.
        schema: of inputs and outputs, in torch's words.
        run: what it does.
        fake: what that returns, in shape alone: a compiler sees no values.
    """
    operation = torch.library.custom_op(f"umamba::{name}", run, mutates_args=(), device_types="cuda", schema=schema)
    operation.register_fake(fake)
    return operation


def as_operation(
    name: str,
    arguments: str,
    forward: Forward,
    backward: Backward,
    fake: Callable[..., Any],
    fresh: Collection[int],
    takes: str = "",
    fake_backward: Callable[..., Any] | None = None,
) -> CustomOpDef:
    """The differentiable operation umamba::`name`, and umamba::`name`_backward.

    Args:
        name: without the name of the library.
        arguments: of the schema, tensors before flags, as "Tensor x, Tensor? bias, float eps".
        forward: takes these, and returns the output and what the backward pass needs of it besides.
        backward: takes the gradient of the output, what `forward` kept, and the arguments; returns a gradient for each
            tensor, None for those that are not there.
        fake: takes these, and returns what `forward` does, in shape alone.
        fresh: indices of the gradients that share memory with nothing else. The others are copied, as operations may
            not return views of one another.
        takes: names of what the backward operation takes, if not "grad, kept" and all arguments. Without what was kept,
            `backward` gets None for it; a tensor that is not among them has the gradient zero.
        fake_backward: takes what the backward operation does; by default its gradients are laid out without gaps.
    """
    kinds = {argument: kind for kind, argument in (pair.split() for pair in arguments.split(", "))}
    tensors = [argument for argument, kind in kinds.items() if kind in ("Tensor", "Tensor?")]
    taken = takes.split(", ") if takes else ["grad", "kept", *kinds]
    keeps = taken[1] not in kinds

    def gradients(grad: Tensor, *others: Any) -> list[Tensor]:
        got = backward(grad, *others) if keeps else backward(grad, None, *others)
        copied = torch.contiguous_format
        return [t if i in fresh else t.clone(memory_format=copied) for i, t in enumerate(got) if t is not None]

    def shapes(*others: Any) -> list[Tensor]:
        given = [t for argument, t in zip(taken, others, strict=True) if argument in tensors and t is not None]
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in given]

    def keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1] if keeps else None, *inputs[: len(tensors)])
        ctx.flags = inputs[len(tensors) :]

    def differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, *values = ctx.saved_tensors
        named = {taken[0]: grad, taken[1]: kept, **dict(zip(kinds, (*values, *ctx.flags), strict=True))}
        got = iter(operation_backward(*(named[argument] for argument in taken)))
        for argument in tensors:
            if named[argument] is not None:
                named[argument] = next(got) if argument in taken else torch.zeros_like(named[argument])
        return *(named[argument] for argument in tensors), *[None] * len(ctx.flags)

    operation = register(name, f"({arguments}) -> (Tensor, Tensor)", forward, fake)
    schema = ", ".join(f"{kinds.get(argument, 'Tensor')} {argument}" for argument in taken)
    operation_backward = register(f"{name}_backward", f"({schema}) -> Tensor[]", gradients, fake_backward or shapes)
    operation.register_autograd(differentiate, setup_context=keep)
    return operation
