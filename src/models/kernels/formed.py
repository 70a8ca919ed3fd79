"""Maps that are formed again in the backward pass instead of being kept for it.

A norm's output is the function of the norm's input that costs least to evaluate again: one pass over memory. Who needs
it for the backward pass (the next convolution, the norm that adds it as a residual) therefore keeps the norm's input,
which the norm keeps anyway, and a `Recipe`. Two maps a layer become one. A decoder's concatenation is formed again from
its two maps, the skip of which is kept by others or formed again itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# No public interface of torch: where a version lacks it, every map is kept
_top_hooks: Callable[[bool], tuple[Callable, Callable] | None] | None = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", None
)

SMALLEST = 2**22  # bytes of a map that is formed again; below, its launch costs more than its memory is worth


class Kept(NamedTuple):
    """What is kept in place of a tensor: without a recipe itself or nothing for None, else what it is formed from."""

    recipe: Recipe | None
    tensors: tuple[Tensor, ...]


class Recipe:
    """How a map is formed from tensors that are given each time.

    It holds no tensor but the formed one, from its first use in a backward pass to its last, or until the backward pass
    of the operation that made the map, which comes after all uses, lets go of it: saved tensors stay where
    checkpointing and hooks can get at them.
    """

    formed: Tensor | None = None
    uses = 0  # by operations that keep it in place of the map, and whose backward passes are to come

    def make(self, tensors: tuple[Tensor, ...]) -> Tensor:
        raise NotImplementedError

    def form(self, tensors: tuple[Tensor, ...], keep: bool) -> Tensor:
        """The map, as a part of another.

        Args:
            tensors: what `kept` said is to be kept.
            keep: for the uses to come.
        """
        formed = self.make(tensors) if self.formed is None else self.formed
        if keep and self.uses > 0:
            self.formed = formed
        return formed

    def use(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """The map, for one of the uses, after the last of which it is not held here any more."""
        self.uses -= 1
        formed = self.form(tensors, keep=True)
        if self.uses <= 0:
            self.formed = None
        return formed

    def let_go(self) -> None:
        self.formed = None


class _Label(NamedTuple):
    kept: Kept
    version: int  # of the map it describes: what was changed in place since cannot be formed again
    hooks: Callable | None


def _hooks() -> Callable | None:
    """What packs saved tensors just now. A region under activation checkpointing has hooks of its own, and must not
    look behind the tensors it is given: it gets others when it runs again.
    """
    hooks = None if _top_hooks is None else _top_hooks(True)
    return None if hooks is None else hooks[0]


def label(y: Tensor, recipe: Recipe, tensors: tuple[Tensor, ...]) -> None:
    """Say how a map is formed, and from what, to those who get this very map."""
    if _top_hooks is not None and y.nbytes >= SMALLEST:
        y.formed_by = _Label(Kept(recipe, tensors), y._version, _hooks())  # type: ignore[attr-defined]


def keep_itself(y: Tensor) -> None:
    """Take back what `label` said: for a map whose backward pass comes first, so that it would be formed at once."""
    if hasattr(y, "formed_by"):
        del y.formed_by


def kept(t: Tensor | None) -> Kept:
    """What to keep for the backward pass to have `t` there."""
    if t is None:
        return Kept(None, ())
    found: _Label | None = getattr(t, "formed_by", None)
    if found is None or found.version != t._version or found.hooks is not _hooks():
        return Kept(None, (t,))
    found.kept.recipe.uses += 1  # type: ignore[union-attr]  # a label has one
    return found.kept
