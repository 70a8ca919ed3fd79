"""Instance norm, residual sum and LeakyReLU as one operation, with its gradients.

    y = act(norm(x) * weight + bias + residual),  norm(x) = (x - mean) / sqrt(variance + eps) of each image and channel

The bias of a convolution before it may stay unadded, since norm(x + conv_bias) = norm(x): adding it and summing its
gradient, which is zero, each read the whole map. Kept for the backward pass are the inputs, mean and
1 / sqrt(variance + eps); what the activation saw is formed again. So is the output, by whoever needs it in the backward
pass (see `umamba.models.kernels.formed`).
Source: instance norm, Ulyanov et al. (arXiv 1607.08022); the variance is the biased one, as torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from umamba.models.kernels.formed import Kept, Recipe, kept, label
from umamba.models.kernels.norm_act_launch import FLOAT, Normed, backward, forward, laid_out, output, statistics
from umamba.models.mamba.kernels.eager import is_watched
from umamba.models.mamba.kernels.operation import as_operation

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_INSTANCE = 2**31  # elements of one image's map: offsets inside it are 32-bit


_operation = as_operation(
    "norm_act",
    "Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? conv_bias, float slope, float eps",
    lambda x, weight, bias, residual, _, slope, eps: forward(x, weight, bias, residual, slope, eps),
    backward,
    fake=lambda x, *others: (torch.empty_like(laid_out(x)), x.new_empty((x.shape[0], 2, x.shape[1]), dtype=FLOAT)),
    fresh=(0, 3),  # of x and residual
    takes="grad, stats, x, weight, bias, residual, slope",
    fake_backward=lambda grad, stats, x, weight, bias, residual, slope: [
        torch.empty_like(t) for t in (laid_out(x), weight, bias, *([] if residual is None else [laid_out(x)]))
    ],
)


def _zeros(conv_bias: Tensor | None) -> Tensor | None:
    return None if conv_bias is None else torch.zeros_like(conv_bias)


class _Output(Recipe):
    """From x, weight, bias, statistics, and the residual or what it is formed from."""

    def __init__(self, slope: float, residual: Recipe | None) -> None:
        self.slope, self.residual = slope, residual

    def make(self, tensors: tuple[Tensor, ...]) -> Tensor:
        x, weight, bias, stats, *rest = tensors
        return output(x, weight, bias, stats, _residual(self.residual, tuple(rest)), self.slope)


def _residual(recipe: Recipe | None, tensors: tuple[Tensor, ...]) -> Tensor | Normed | None:
    """The residual, or what the kernels form it from where that is one norm's input."""
    if recipe is None:
        return tensors[0] if tensors else None
    if isinstance(recipe, _Output) and recipe.formed is None and len(tensors) == 4:
        return Normed(*tensors, recipe.slope)
    return recipe.form(tensors, keep=True)


class _NormAct(torch.autograd.Function):
    """The same passes without the dispatcher, for eager mode (see `umamba.models.mamba.kernels.eager`). Of the residual
    its recipe is kept where it has one; the output's own lets go of it once all who need the output are done.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        conv_bias: Tensor | None,
        slope: float,
        eps: float,
        source: Kept,
        recipe: Recipe,
    ) -> tuple[Tensor, Tensor]:
        out, stats = forward(x, weight, bias, residual, slope, eps)
        ctx.save_for_backward(stats, x, weight, bias, conv_bias, *source.tensors)
        ctx.slope, ctx.source, ctx.recipe = slope, source.recipe, recipe
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return out, stats

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable would leave out what goes through the inputs
            raise RuntimeError("The fused instance norm has no second derivative, which create_graph=True asks for.")
        ctx.recipe.let_go()
        if grad is None:
            return (None,) * 9
        stats, x, weight, bias, conv_bias, *tensors = ctx.saved_tensors
        if ctx.source is not None:
            ctx.source.uses -= 1
        residual = _residual(ctx.source, tuple(tensors))
        gradients = backward(grad, stats, x, weight, bias, residual, ctx.slope)
        return *gradients, _zeros(conv_bias), None, None, None, None


# What Function.apply comes to outside torch.func, whose transforms `is_watched` sees
_apply = super(torch.autograd.Function, _NormAct).apply


def norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    conv_bias: Tensor | None = None,
    slope: float = 1.0,
    eps: float = 1e-5,
) -> Tensor:
    """act(instance norm of x, scaled and shifted, plus residual), act(v) = v where v > 0 and slope v elsewhere.

    Args:
        x: (B, C, *S) with one to three spatial axes on a CUDA device, float32, float16 or bfloat16; channels-last and
            channels-first maps are read as they lie.
        weight, bias: (C,), float32 or the dtype of x.
        residual: like x, or None.
        conv_bias: (C,), what x lacks: it gets its gradient, zero, and changes nothing.
        slope: of the activation below zero; 1 for none.
        eps: added to the variance.

    Returns:
        like x, in its layout; statistics and arithmetic are float32.

    Raises:
        ValueError: another dtype or number of axes, 2^31 elements an image, or shapes that do not fit together.
    """
    if not 3 <= x.dim() <= 5 or x.dtype not in DTYPES:
        raise ValueError(
            f"The fused instance norm takes (B, C, *S) with one to three spatial axes in float32, float16 or bfloat16, "
            f"but got shape {tuple(x.shape)} in {str(x.dtype).removeprefix('torch.')}."
        )
    if x.shape[1:].numel() >= MAX_INSTANCE:
        raise ValueError(
            f"The fused instance norm takes maps of fewer than {MAX_INSTANCE} elements an image, but got shape "
            f"{tuple(x.shape)}; cut the image into smaller windows."
        )
    channels = (x.shape[1],)
    if weight.shape != channels or bias.shape != channels or (residual is not None and residual.shape != x.shape):
        raise ValueError(
            f"For an input of shape {tuple(x.shape)} weight and bias must be {channels} and the residual of its shape, "
            f"but they are {tuple(weight.shape)}, {tuple(bias.shape)} and "
            f"{None if residual is None else tuple(residual.shape)}."
        )
    if is_watched(x):
        return _operation(x, weight, bias, residual, conv_bias, slope, eps)[0]
    if not torch.is_grad_enabled():
        return forward(x, weight, bias, residual, slope, eps)[0]
    source = kept(residual)
    recipe = _Output(slope, source.recipe)
    y, stats = _apply(x, weight, bias, residual, conv_bias, slope, eps, source, recipe)
    label(y, recipe, (x, weight, bias, stats, *source.tensors))
    return y


class _NormsAct(torch.autograd.Function):
    """Both norms' passes; the residual's output is nowhere in memory."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        conv_bias: Tensor | None,
        r: Tensor,
        r_weight: Tensor,
        r_bias: Tensor,
        slope: float,
        eps: float,
        recipe: Recipe,
    ) -> tuple[Tensor, Tensor, Tensor]:
        stats, r_stats = statistics(x, eps), statistics(r, eps)
        out = output(x, weight, bias, stats, Normed(r, r_weight, r_bias, r_stats, 1.0), slope)
        ctx.save_for_backward(stats, x, weight, bias, conv_bias, r, r_weight, r_bias, r_stats)
        ctx.slope, ctx.recipe = slope, recipe
        ctx.mark_non_differentiable(stats, r_stats)
        ctx.set_materialize_grads(False)
        return out, stats, r_stats

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("The fused instance norm has no second derivative, which create_graph=True asks for.")
        ctx.recipe.let_go()
        if grad is None:
            return (None,) * 10
        stats, x, weight, bias, conv_bias, r, r_weight, r_bias, r_stats = ctx.saved_tensors
        normed = Normed(r, r_weight, r_bias, r_stats, 1.0)
        *gradients, grad_r = backward(grad, stats, x, weight, bias, normed, ctx.slope)
        del grad
        assert grad_r is not None  # as there is a residual
        *r_gradients, _ = backward(grad_r, r_stats, r, r_weight, r_bias, None, 1.0)
        return *gradients, _zeros(conv_bias), *r_gradients, None, None, None


def norms_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    conv_bias: Tensor | None,
    r: Tensor,
    r_weight: Tensor,
    r_bias: Tensor,
    slope: float,
    eps: float,
) -> Tensor:
    """`norm_act` with the instance norm of `r`, scaled and shifted, as the residual, which is not written to memory.

    In eager mode with gradients. Arguments as of `norm_act`.
    """
    recipe = _Output(slope, _Output(1.0, None))
    y, stats, r_stats = _NormsAct.apply(x, weight, bias, conv_bias, r, r_weight, r_bias, slope, eps, recipe)
    label(y, recipe, (x, weight, bias, stats, r, r_weight, r_bias, r_stats))
    return y
