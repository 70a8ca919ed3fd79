"""Maps that are formed again in the backward pass instead of being kept for it.

A norm's output is the function of the norm's input that costs least to evaluate again: one pass over memory. Who needs
it for the backward pass (the next convolution, the norm that adds it as a residual) therefore keeps the norm's input,
which the norm keeps anyway, and a `Recipe`. Two maps a layer become one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 2**22  # bytes of a map that is formed again; below, its launch costs more than its memory is worth

Output = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor, float], Tensor]


class Recipe:
    """How a norm's output is formed from tensors that are given each time: x, weight, bias, statistics, and those of
    the residual.

    It holds no tensor but the formed one, from its first use in a backward pass until the norm's own backward pass,
    which comes after all uses, lets go of it: saved tensors stay where checkpointing and hooks can get at them.

    Args:
        output: of x, weight, bias, residual or None, statistics and slope.
        residual: recipe of the residual, or None if it is given itself or there is none.
    """

    __slots__ = ("formed", "output", "residual", "slope")

    def __init__(self, output: Output, slope: float, residual: Recipe | None) -> None:
        self.output, self.slope, self.residual = output, slope, residual
        self.formed: Tensor | None = None

    def form(self, tensors: Sequence[Tensor]) -> Tensor:
        if self.formed is None:
            x, weight, bias, stats, *rest = tensors
            self.formed = self.output(x, weight, bias, formed(self.residual, rest), stats, self.slope)
        return self.formed

    def let_go(self) -> None:
        self.formed = None


class Kept(NamedTuple):
    """What is kept in place of a tensor: without a recipe the tensor itself, or nothing for None."""

    recipe: Recipe | None
    tensors: tuple[Tensor, ...]


class _Label(NamedTuple):
    kept: Kept
    version: int  # of the map it describes: what was changed in place since cannot be formed again
    hooks: Callable | None


def _hooks() -> Callable | None:
    """What packs saved tensors just now. A region under activation checkpointing has hooks of its own, and must not
    look behind the tensors it is given: it gets others when it runs again.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if hooks is None else hooks[0]


def label(y: Tensor, recipe: Recipe, tensors: tuple[Tensor, ...]) -> None:
    """Say of a norm's output how it is formed, to those who get this very tensor."""
    if y.nbytes >= SMALLEST:
        y.formed_by = _Label(Kept(recipe, tensors), y._version, _hooks())  # type: ignore[attr-defined]


def kept(t: Tensor | None) -> Kept:
    """What to keep for the backward pass to have `t` there."""
    if t is None:
        return Kept(None, ())
    found: _Label | None = getattr(t, "formed_by", None)
    if found is None or found.version != t._version or found.hooks is not _hooks():
        return Kept(None, (t,))
    return found.kept


def formed(recipe: Recipe | None, tensors: Sequence[Tensor]) -> Tensor | None:
    """The tensor, or None, of which `kept` gave the recipe and, by way of ctx.save_for_backward, the tensors."""
    if recipe is not None:
        return recipe.form(tensors)
    return tensors[0] if tensors else None
