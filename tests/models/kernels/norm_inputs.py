"""Inputs and float64 results shared by the tests of the fused instance norm."""

from __future__ import annotations

import torch

from umamba.models.kernels.selfcheck import reference

SLOPE, EPS = 0.01, 1e-5


def make_inputs(shape, kind="random", residual=True, dtype=torch.float64, seed=0):
    """x, weight, bias, residual or None, and the gradient of the output; maps in `dtype`.

    The gradient is 0 where the activation's kink is so near that rounding decides on which side of it a value lies.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x = {
        "random": lambda: 2 * normal(*shape) + 3,
        "constant": lambda: torch.full(shape, 3.0, dtype=torch.float64),
        "huge": lambda: (2 * normal(*shape) + 3) * (2e3 if dtype == torch.float16 else 1e12),
        "tiny": lambda: (2 * normal(*shape) + 3) * (1e-6 if dtype == torch.float16 else 1e-12),
        "far from zero": lambda: normal(*shape) + 500,
    }[kind]()
    maps = x, normal(*shape) if residual else None, normal(*shape)
    x, added, grad = (None if t is None else t.to(dtype) for t in maps)
    weight, bias = normal(shape[1]).float(), normal(shape[1]).float()
    before = reference(x.double(), weight.double(), bias.double(), None if added is None else added.double(), 1.0, EPS)
    return x, weight, bias, added, grad.masked_fill(before.abs() < 1e-4, 0)


def expected(x, weight, bias, residual, grad):
    """Output and gradients in float64."""
    leaves = [t.double().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    out = reference(*leaves[:3], leaves[3] if residual is not None else None, SLOPE, EPS)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.double())]


def worst(got, exact, scale=1e-3):
    """The largest relative error; of tensors that are next to nothing, as the gradient of a constant map's weight, the
    error against `scale`."""
    floor = [scale * e.numel() ** 0.5 for e in exact]
    return max(
        ((g.double().cpu() - e.cpu()).norm() / max(e.norm().item(), f)).item()
        for g, e, f in zip(got, exact, floor, strict=True)
    )


def channels_last(x):
    return None if x is None else x.movedim(1, -1).contiguous().movedim(-1, 1)
