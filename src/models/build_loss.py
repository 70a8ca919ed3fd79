"""From a loss's configuration and the facts of a data set to the loss: `configs/loss/`, or code of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from umamba.models.loss_terms import Terms
from umamba.models.losses import DiceCELoss
from umamba.models.ranks import rank_weight
from umamba.models.regions import DiceBCELoss
from umamba.raw.description import DatasetDescription

FACTS = ("num_classes", "batch_dice", "ignore_label", "regions")  # what a loss may ask for as keywords
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_TRIED = 16  # voxels along each axis
_WITHOUT = "Take one of configs/loss such as loss=dice_ce, or give its constructor an argument {!r}."


def segmentation_loss(
    *,
    num_classes: int,
    batch_dice: bool,
    ignore_label: int | None = None,
    regions: Sequence[Sequence[int]] = (),
    class_weights: Sequence[float] | None = None,
    **terms: float,
) -> nn.Module:
    """The loss that a file of `configs/loss/` describes; nnU-Net's without further arguments.

    Args:
        num_classes: outputs of the network, the background among them if they are classes.
        batch_dice: sum over the batch (and over ranks) before dividing, instead of one Dice per sample.
        ignore_label: value of voxels that do not count, or None.
        regions: label values of each output, if these are regions.
        class_weights: of the cross-entropy, one for each output.
        terms: the numbers of `umamba.models.loss_terms.Terms`.

    Raises:
        ValueError: a setting is out of bounds, there are more or fewer weights than outputs, or of regions the hardest
            voxels are asked for.
    """
    made = _terms(class_weights=class_weights, **terms)
    weights = made.class_weights
    if weights is not None and len(weights) != num_classes:
        outputs = "regions, in the order of dataset.json" if regions else "classes by its value, the background first"
        raise ValueError(
            f"loss.class_weights has {len(weights)} numbers, {[*weights]}; expected {num_classes}, one for each of the "
            f"{outputs}."
        )
    if not regions:
        return DiceCELoss(batch_dice, ignore_label, made)
    if made.hardest_percent < 100:
        raise ValueError(
            f"loss.hardest_percent={made.hardest_percent:g} looks for voxels by the softmax over classes that exclude "
            "each other, and this data set has regions, which do not. Take loss=dice_ce, ce, focal or dice_focal."
        )
    return DiceBCELoss(regions, batch_dice, ignore_label, made)


def check_is_loss(make: Any) -> None:
    """Refuse, before any data are opened, what is no way to make a loss.

    Raises:
        ValueError: it is none, or whatever the data are, a setting is out of bounds or of no argument.
    """
    if isinstance(make, nn.Module) or not callable(make):
        raise ValueError(
            f"loss builds a {type(make).__name__}; expected a _target_ with _partial_: true, which is given what it "
            f"asks for of {', '.join(FACTS)}."
        )
    given = getattr(make, "keywords", {})
    if said := [key for key in FACTS if key in given]:
        raise ValueError(f"loss.{said[0]}={given[said[0]]} is for the plan of the data to say. Leave it out.")
    made = getattr(make, "func", make)
    if made is segmentation_loss:
        _terms(**given)
    parameters = _parameters_of(made)
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = [one.name for one in parameters if one.kind in _NAMED and one.name not in FACTS]
    if unknown := [key for key in given if key not in names and not takes_all]:
        there = f"There are {', '.join(names)}." if names else "It takes none."
        raise ValueError(f"loss.{unknown[0]}: {_name_of(make)} has no such argument. {there}")


def check_loss(make: Callable[..., nn.Module], description: DatasetDescription, spatial_dims: int) -> None:
    """Refuse, before any case is read, a loss that does not fit what dataset.json says; try one of the user's own.

    Raises:
        ValueError: it does not, or cannot be computed.
    """
    num_classes = len(description.regions) or len(description.labels)
    loss = build_loss(
        make,
        num_classes=num_classes,
        batch_dice=False,
        ignore_label=description.ignore_label,
        regions=[region.labels for region in description.regions],
    )
    if isinstance(loss, OwnLoss):
        loss.try_out(num_classes, spatial_dims)


def build_loss(
    make: Callable[..., nn.Module],
    *,
    num_classes: int,
    batch_dice: bool,
    ignore_label: int | None,
    regions: Sequence[Sequence[int]],
) -> nn.Module:
    """Make the loss of one output of a network, if it fits the data (else ValueError).

    Args:
        make: class or partial; of the other arguments it is given those that it takes.
        num_classes: see `segmentation_loss`, as for the others.
        batch_dice: likewise.
        ignore_label: likewise.
        regions: likewise.
    """
    facts = {
        "num_classes": num_classes, "batch_dice": batch_dice, "ignore_label": ignore_label, "regions": [*regions]
    }  # fmt: skip
    check_is_loss(make)
    name = _name_of(make)
    parameters = _parameters_of(make)
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = {one.name for one in parameters if one.kind in _NAMED}
    known = {key: value for key, value in facts.items() if takes_all or key in names}
    if ignore_label is not None and "ignore_label" not in known:
        raise ValueError(
            f"The data set has an ignore label ({ignore_label}), and {name} cannot be told: it would learn that as a "
            f"class. {_WITHOUT.format('ignore_label')}"
        )
    if regions and "regions" not in known:
        raise ValueError(
            f"The data set has regions, each an output of its own, and {name} cannot be told: it would take them for "
            f"classes that exclude each other. {_WITHOUT.format('regions')}"
        )
    try:
        loss = make(**known)
    except TypeError as error:
        raise ValueError(f"loss: {error}") from error
    return loss if isinstance(loss, (DiceCELoss, DiceBCELoss)) else OwnLoss(loss, name)


class OwnLoss(nn.Module):
    """A loss of the user's own, called with labels in int64; of ranks each has the weight of its samples.

    Args:
        loss: of logits (B, K, *S) and label (B, *S) to a scalar.
        name: what to call it in a log.
    """

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        self.loss, self.name = loss, name

    def try_out(self, num_classes: int, spatial_dims: int) -> None:
        """Compute it of a small batch of background, with its gradient; no random number of the run is drawn.

        Raises:
            ValueError: that fails.
        """
        shape = (_TRIED,) * spatial_dims
        logits, label = torch.zeros(2, num_classes, *shape, requires_grad=True), torch.zeros(2, *shape).long()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.autograd.grad(self(logits, label), logits)
        except Exception as error:  # the user's own code, which may raise anything
            raise ValueError(
                f"{self.name} cannot be computed, with its gradient, of logits {tuple(logits.shape)} and a label "
                f"{tuple(label.shape)} of whole numbers, as a training would: {error}"
            ) from error

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of one output, a scalar (else ValueError)."""
        loss = self.loss(logits, label.long())
        if loss.ndim:
            raise ValueError(
                f"{self.name} gives a tensor of shape {tuple(loss.shape)}; expected a scalar, the mean of the batch."
            )
        return loss * rank_weight(label, loss.dtype)


def _parameters_of(make: Any) -> list[inspect.Parameter]:
    # A module without a constructor has torch's, which names no arguments and takes none
    bare = getattr(getattr(make, "func", make), "__init__", None) is nn.Module.__init__
    return [] if bare else [*inspect.signature(make).parameters.values()]


def _name_of(make: Any) -> str:
    made = getattr(make, "func", make)
    return f"{made.__module__}.{getattr(made, '__qualname__', type(made).__qualname__)}"


def _terms(class_weights: Any = None, **numbers: Any) -> Terms:
    if isinstance(class_weights, Sequence) and not isinstance(class_weights, str):
        class_weights = tuple(class_weights)
    if unknown := [key for key in numbers if key not in vars(Terms())]:
        raise ValueError(f"loss.{unknown[0]}: there is no such key. There are {', '.join(vars(Terms()))}.")
    return Terms(class_weights=class_weights, **numbers)
