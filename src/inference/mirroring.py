"""Which axes of the patch a training mirrored: the ones over which a prediction may average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from umamba.targets import MIRROR


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
