"""The networks of a prediction, as their checkpoints say that they predict."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from umamba.inference.precision import autocast_dtype, trained_precision
from umamba.inference.sliding_window import mirrored
from umamba.models.checkpoint import check_finite, network_from_checkpoint
from umamba.planning.plan import Plan
from umamba.targets import MIRROR

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A network of an ensemble, and how its training says that it predicts.

    Attributes:
        network: In eval mode, deep supervision off.
        autocast: Of its convolutions, None for float32.
        mirror_axes: Axes of the patch over whose flips its logits are averaged; none for no mirroring.
    """

    network: nn.Module
    autocast: torch.dtype | None = None
    mirror_axes: tuple[int, ...] = ()

    def made_by(self) -> dict[str, Any]:
        """What tells it from others, as plain data."""
        return {
            "weights_sha256": weights_hash(self.network.state_dict()),
            "precision": str(self.autocast or torch.float32).removeprefix("torch."),
            "mirror_axes": list(self.mirror_axes),
        }

    def __call__(self, patches: Tensor) -> Tensor:
        """(B, C, *patch) -> logits (B, K, *patch)."""
        with torch.autocast(patches.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return mirrored(self.network, self.mirror_axes)(patches)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights with their names, shapes and dtypes, in their order; 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def members_of(
    checkpoints: Sequence[tuple[str | Path, Mapping[str, Any]]], device: torch.device, mirror: bool
) -> tuple[list[Member], Plan, str]:
    """The networks of checkpoints whose logits are to be averaged.

    Returns:
        The networks, their plan and the name of their configuration.

    Raises:
        ValueError: They were trained with different plans or configurations; one holds weights that are not finite, or
            was trained without mirroring and `mirror` is set.
    """
    first, content = checkpoints[0]
    plan, name = Plan.from_dict(content["plan"]), content["configuration"]
    members = []
    for one, checkpoint in checkpoints:
        network, other = network_from_checkpoint(checkpoint)
        if checkpoint["configuration"] != name or other.trained_part(name) != plan.trained_part(name):
            raise ValueError(
                f"{one} was trained with another plan or configuration ({checkpoint['configuration']}, plan "
                f"{other.hash()}) than {first} ({name}, plan {plan.hash()}); their logits cannot be averaged."
            )
        check_finite(network.state_dict(), one)
        axes = axes_to_mirror(checkpoint["config"], plan.configuration(name).spatial_dims, one) if mirror else ()
        autocast = autocast_dtype(trained_precision(checkpoint["config"]), device)
        members.append(Member(network, autocast, axes))
    _say_equal([str(one) for one, _ in checkpoints], [member.network.state_dict() for member in members])
    return members, plan, name


def _say_equal(names: Sequence[str], weights: Sequence[Mapping[str, Tensor]]) -> None:
    """Say which checkpoints hold the weights of another; no hashes: of others the first tensor tells them apart."""
    for index, mine in enumerate(weights):
        for name, other in zip(names[:index], weights, strict=False):
            if mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine):
                log.warning("%s holds the same weights as %s: they count double in the mean.", names[index], name)
                break


def check_named_once(checkpoints: Sequence[str | Path]) -> None:
    """See that no checkpoint of an ensemble is named twice: its network would count double in the mean.

    Raises:
        ValueError: One is, be it by a link.
    """
    files = [Path(path).resolve() for path in checkpoints]
    if twice := sorted({str(file) for file in files if files.count(file) > 1}):
        raise ValueError(
            f"checkpoint names {', '.join(twice)} twice, whose logits would count double in the mean. Name each once."
        )


def trained_mirror_axes(config: Mapping[str, Any], spatial_dims: int) -> tuple[int, ...]:
    """The axes that the augmentation of a checkpoint's config mirrored.

    A training sees its patches in the plan's order of axes, as the network does in prediction: the numbers agree.

    Args:
        config: Resolved config of the training; its data.augmentation is searched, transforms within transforms too.
        spatial_dims: Axes of the network's patch, 2 or 3. In 2D the augmentation's third axis is a dummy.

    Raises:
        ValueError: Axes are named by anatomy ("Left"), which a patch does not know.
    """
    axes: set[int] = set()
    for transform in _transforms((config.get("data") or {}).get("augmentation")):
        axes |= set(_axes_of(transform))
    return tuple(sorted(axis for axis in axes if axis < spatial_dims))


def axes_to_mirror(config: Mapping[str, Any], spatial_dims: int, path: Path | str) -> tuple[int, ...]:
    """The axes over whose flips a prediction with mirror=true averages; `path` is the checkpoint's, for the message.

    Raises:
        ValueError: See `trained_mirror_axes`; or the training mirrored none.
    """
    axes = trained_mirror_axes(config, spatial_dims)
    if not axes:
        raise ValueError(
            f"{path} was trained without mirroring (no transform of data.augmentation mirrors an axis of its patch): "
            "averaging over mirrored inputs would show it what it never saw. Use mirror=false."
        )
    return axes


def _transforms(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from _transforms(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _transforms(value)


def _axes_of(transform: Mapping[str, Any]) -> tuple[int, ...]:
    target = str(transform["_target_"])
    if transform.get("p", 1) == 0:
        return ()
    if target == MIRROR:
        axes = (0, 1, 2) if transform.get("axes") is None else transform["axes"]
        probability = transform.get("axis_p", 0.5)
    elif target.startswith("torchio.") and target.endswith(".RandomFlip"):
        axes, probability = transform.get("axes", 0), transform.get("flip_probability", 0.5)
        axes = (axes,) if isinstance(axes, (int, str)) else axes
    else:
        return ()
    numbers = tuple(axis for axis in axes if isinstance(axis, int))
    if len(numbers) != len(axes):
        raise ValueError(
            f"The training mirrored the axes {list(axes)}, by names of the anatomy: which axes of the patch those are "
            "cannot be known. Predict with mirror=false."
        )
    return numbers if probability > 0 else ()
