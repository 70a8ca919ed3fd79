"""What the fused norm and concatenation get wrong on a device, compared with float64 before their first use there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from umamba.models.mamba.scan.selfcheck import random_tensor, relative_error

SLOPE, EPS = 0.01, 1e-5
NAMES = ("output", "output formed again", "x", "weight", "bias", "residual")
SHAPES = ((2, 24, 9, 10, 11), (2, 40, 90, 91))  # one chunk an image, and several


def reference(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, slope: float, eps: float) -> Tensor:
    """`norm_act.norm_act` in torch's own operations, in the dtype of its inputs."""
    variance, mean = torch.var_mean(x, tuple(range(2, x.dim())), correction=0, keepdim=True)
    channels = (-1, *[1] * (x.dim() - 2))
    y = (x - mean) * torch.rsqrt(variance + eps) * weight.view(channels) + bias.view(channels)
    return F.leaky_relu(y if residual is None else y + residual, slope)


def relative_errors(device: torch.device) -> dict[str, float]:
    """Relative error of outputs and gradients of the fused kernels on `device`; of the norm in both layouts."""
    return _norm_errors(device) | _concatenation_errors(device)


def _concatenation_errors(device: torch.device) -> dict[str, float]:
    from umamba.models.kernels.concatenation_launch import joined, parted

    shapes = SHAPES[1], (SHAPES[1][0], 72, *SHAPES[1][2:]), SHAPES[1][1:2]
    exact = [random_tensor(shape, i).requires_grad_() for i, shape in enumerate(shapes)]
    out = torch.cat((exact[0] + exact[2].view(-1, 1, 1), exact[1]), 1)
    grad = random_tensor(out.shape, len(exact))
    gradients = torch.autograd.grad(out, exact, grad)
    x, other, bias, weight = (t.detach().float().to(device) for t in (*exact, grad))
    results = joined(x, other, bias), *parted(weight, x.shape[1], bias)
    errors = {}
    for name, a, b in zip(("output", "x", "skip", "bias"), results, (out, *gradients), strict=True):
        assert a is not None
        errors[f"{name} of a concatenation"] = relative_error(a, b)
    return errors


def _norm_errors(device: torch.device) -> dict[str, float]:
    from umamba.models.kernels.norm_act_launch import Normed, backward, forward, output

    errors = {}
    for shape in SHAPES:
        channels = shape[1:2]
        exact = [random_tensor(s, i).requires_grad_() for i, s in enumerate((shape, channels, channels, shape))]
        weight = random_tensor(shape, len(exact))
        out = reference(exact[0], exact[1], exact[2], exact[3], SLOPE, EPS)
        gradients = torch.autograd.grad(out, exact, weight)
        grad = weight.float().to(device)
        for channels_last in (False, True):
            x, gain, bias, residual = (t.detach().float().to(device) for t in exact)
            if channels_last:
                x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            inputs = x, gain, bias, residual
            got, stats = forward(*inputs, SLOPE, EPS)
            again = output(x, gain, bias, stats, residual, SLOPE)
            results = got, again, *backward(grad, stats, *inputs, SLOPE)
            layout = "last" if channels_last else "first"
            for name, a, b in zip(NAMES, results, (out, out, *gradients), strict=True):
                assert a is not None  # a gradient of what was given
                errors[f"{name} of {len(shape) - 2}D channels-{layout}"] = relative_error(a, b)
            stored, r_stats = forward(residual, gain, bias, None, SLOPE, EPS)
            pair = [
                [output(*inputs[:3], stats, r, SLOPE), *backward(grad, stats, *inputs[:3], r, SLOPE)]
                for r in (stored, Normed(residual, gain, bias, r_stats, SLOPE))
            ]
            for name, a, b in zip(NAMES[1:], *pair, strict=True):
                assert a is not None and b is not None
                name = f"{name} with a residual formed on the way, {len(shape) - 2}D channels-{layout}"
                errors[name] = relative_error(b, a.double().cpu())
    return errors
