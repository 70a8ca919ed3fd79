"""The weights of a network's convolutions in half precision by one kernel, and their gradients in float32 by another.

Autocast casts every weight by a kernel of its own, forward and backward: on small maps that is a tenth of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from umamba.models.gradient_exchange import exchanged_as_they_come
from umamba.models.kernels.choice import fused
from umamba.models.mamba.kernels.eager import is_watched


def cast_all(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each tensor in another dtype, laid out as it is, in one or a few kernels."""
    copies = [torch.empty_like(t, dtype=dtype) for t in tensors]
    flat: list[tuple[Tensor, Tensor]] = []  # of those without gaps: torch does at once what has equal strides
    for copy, t in zip(copies, tensors, strict=True):
        if copy.stride() == t.stride():
            flat.append((_flat(copy), _flat(t)))
        else:
            copy.copy_(t)
    if flat:
        torch._foreach_copy_([copy for copy, _ in flat], [t for _, t in flat])
    return copies


def _flat(t: Tensor) -> Tensor:
    return t.as_strided((t.numel(),), (1,))


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(cast_all(weights, dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        cast = iter(cast_all([grad for grad in grads if grad is not None], torch.float32))
        return None, *(None if grad is None else next(cast) for grad in grads)


def casts_at_once(x: Tensor) -> bool:
    """Whether a training step on this input casts weights at once: under autocast, where the fused kernels run.

    Not where processes exchange gradients as the backward pass goes, for these come all at its end.
    """
    return (
        not is_watched(x)
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled(x.device.type)
        and fused(x)
        and not exchanged_as_they_come()
    )


@contextmanager
def in_half_precision(layers: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Lets layers have their float32 weights in `dtype` meanwhile, differentiably."""
    places = [
        (layer, name)
        for layer in layers
        for name, weight in layer.named_parameters(recurse=False)
        if weight.dtype == torch.float32 and weight.requires_grad
    ]
    weights = [layer._parameters[name] for layer, name in places]
    casts = _Cast.apply(dtype, *weights) if weights else ()
    try:
        for (layer, name), cast in zip(places, casts, strict=True):
            layer._parameters[name] = cast
        yield
    finally:
        for (layer, name), weight in zip(places, weights, strict=True):
            layer._parameters[name] = weight
