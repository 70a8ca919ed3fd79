"""Inputs and float64 results shared by the tests of the fused instance norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umamba.models.kernels.selfcheck import reference

SLOPE, EPS = 0.01, 1e-5


def make_inputs(
    shape: tuple[int, ...],
    kind: str = "random",
    residual: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """x, weight, bias, residual or None, and the gradient of the output; maps in `dtype`.

    The gradient is 0 where the activation's kink is so near that rounding decides on which side of it a value lies.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x = {
        "random": lambda: 2 * normal(*shape) + 3,
        "constant": lambda: torch.full(shape, 3.0, dtype=torch.float64),
        "huge": lambda: (2 * normal(*shape) + 3) * (2e3 if dtype == torch.float16 else 1e12),
        "tiny": lambda: (2 * normal(*shape) + 3) * (1e-6 if dtype == torch.float16 else 1e-12),
        "far from zero": lambda: normal(*shape) + 500,
    }[kind]()
    added, grad = normal(*shape) if residual else None, normal(*shape)
    x, added, grad = x.to(dtype), None if added is None else added.to(dtype), grad.to(dtype)
    weight, bias = normal(shape[1]).float(), normal(shape[1]).float()
    before = reference(x.double(), weight.double(), bias.double(), None if added is None else added.double(), 1.0, EPS)
    return x, weight, bias, added, grad.masked_fill(before.abs() < 1e-4, 0)


def expected(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, grad: Tensor) -> list[Tensor]:
    """Output and gradients in float64."""
    leaves = [t.double().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    out = reference(leaves[0], leaves[1], leaves[2], leaves[3] if residual is not None else None, SLOPE, EPS)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.double())]


def worst(got: Sequence[Tensor], exact: Sequence[Tensor], scale: float = 1e-3) -> float:
    """The largest relative error; of tensors that are next to nothing, as the gradient of a constant map's weight, the
    error against `scale`."""
    floor = [scale * e.numel() ** 0.5 for e in exact]
    return max(
        ((g.double().cpu() - e.cpu()).norm() / max(e.norm().item(), f)).item()
        for g, e, f in zip(got, exact, floor, strict=True)
    )


def channels_last(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.movedim(1, -1).contiguous().movedim(-1, 1)
