"""One case from raw arrays to what a network sees.

nnU-Net's order: transpose, crop to non-zero, normalise, resample, sample class locations. The way back, from logits to
a label map in the original grid, is `umamba.inference.export`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from umamba.machine import require_memory
from umamba.planning.configuration import Configuration
from umamba.planning.normalization import SCHEMES
from umamba.planning.plan import Plan
from umamba.planning.planner import resampled_shape
from umamba.planning.resampling import resample_image, resample_label
from umamba.raw.cropping import crop_to_nonzero, nonzero_box
from umamba.raw.description import DatasetError
from umamba.raw.readers import Geometry

_FINEST = (
    50  # of its voxels lie in one of the plan's, on every axis: a whole image would be a few voxels, all background
)
_APART = 100  # times a plan's voxel, on any axis; slices of 10 mm are 20 times as thick as those of 0.5 mm

_MIN_LOCATIONS = 10_000  # stored voxels per class, if it has that many
_MIN_SHARE = 0.01  # and at least this share of its voxels
_SEED = 1234


@dataclass(frozen=True, kw_only=True)
class CaseProperties:
    """What it takes to bring a prediction back to the original grid. Axes are the plan's, but for `geometry`.

    Attributes:
        geometry: Of the original image.
        shape_before_crop: Transposed shape of the original image.
        box: (start, stop) per axis of the part that was kept.
        shape: Of the preprocessed data.
    """

    geometry: Geometry
    shape_before_crop: tuple[int, int, int]
    box: tuple[tuple[int, int], ...]
    shape: tuple[int, int, int]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave and JSON kept, with lists for tuples."""
        geometry: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["geometry"].items()}
        return cls(
            geometry=Geometry(**geometry),
            shape_before_crop=tuple(content["shape_before_crop"]),
            box=tuple(tuple(edge) for edge in content["box"]),
            shape=tuple(content["shape"]),
        )

    @property
    def shape_after_crop(self) -> tuple[int, ...]:
        """Shape before resampling."""
        return tuple(stop - start for start, stop in self.box)


@dataclass(frozen=True, kw_only=True)
class PreprocessedCase:
    """A case as it goes into the store.

    Attributes:
        data: (C, Z, Y, X) float32, normalised.
        label: (Z, Y, X) int16, -1 outside the non-zero mask; None if there was no label.
        properties: For the way back.
    """

    data: np.ndarray
    label: np.ndarray | None
    properties: CaseProperties


def preprocess_case(
    image: np.ndarray, geometry: Geometry, label: np.ndarray | None, plan: Plan, configuration: Configuration
) -> PreprocessedCase:
    """Preprocess one case.

    Args:
        image: (C, Z, Y, X) float32 as read; not changed.
        geometry: As read.
        label: (Z, Y, X) integer as read, or None; not changed.
        plan: Decides the order of axes and the intensities.
        configuration: Decides spacing and normalisation.

    Returns:
        The image as (C, Z, Y, X) float32 and the label as (Z, Y, X) int16, -1 outside the non-zero mask, in the plan's
        order of axes and the configuration's spacing; and what the way back needs.

    Raises:
        ValueError: The image has another number of channels than the plan, or label and image differ in shape.
        MemoryError: The resampled image does not fit into memory; none was taken.
    """
    if label is not None and label.shape != image.shape[1:]:
        raise ValueError(f"The label has shape {label.shape}, its image {image.shape[1:]} (z, y, x).")
    cropped, mask, properties = crop_case(image, geometry, label, plan, configuration)
    spacing = spacing_of(geometry, plan)
    target, shape = target_of(configuration, spacing), properties.shape
    channels = []
    for i, scheme in enumerate(configuration.normalization):
        # A copy: normalisation works in place.
        channel = np.array(cropped[i], dtype=np.float32, order="C")
        channel = SCHEMES[scheme](channel, mask if configuration.use_mask_for_norm[i] else None, plan.intensities[i])
        channels.append(resample_image(channel, shape, spacing, target))
    data = np.stack(channels) if len(channels) > 1 else channels[0][None]  # a view: no second copy of a large volume
    resampled = None
    if label is not None and mask is not None:
        resampled = resample_label(np.ascontiguousarray(mask), shape, spacing, target).astype(np.int16, copy=False)
    return PreprocessedCase(data=data, label=resampled, properties=properties)


def crop_case(
    image: np.ndarray, geometry: Geometry, label: np.ndarray | None, plan: Plan, configuration: Configuration
) -> tuple[np.ndarray, np.ndarray | None, CaseProperties]:
    """Transpose and crop a case, and say what it will be resampled to; arguments as of `preprocess_case`.

    Returns:
        The image (a view); the label with -1 outside the non-zero mask, as `crop_to_nonzero` returns it, or None where
        there is neither a label nor a channel that is normalised within that mask, whose holes take long to fill; and
        the properties.

    Raises:
        ValueError: The image has another number of channels than the plan.
        DatasetError: Its voxels are so large that it would take hours, or so small that nothing would be left of it:
            their size must be wrong.
        MemoryError: The resampled image does not fit into memory.
    """
    if image.shape[0] != len(plan.channel_names):
        raise ValueError(
            f"The image has {image.shape[0]} channels, the plan of {plan.dataset_name} expects "
            f"{len(plan.channel_names)} ({', '.join(plan.channel_names)}). Channels are the first axis of an array."
        )
    order = plan.transpose_forward
    image = image.transpose(0, *(axis + 1 for axis in order))
    mask = None
    if label is not None or any(configuration.use_mask_for_norm):
        cropped, mask, box = crop_to_nonzero(image, None if label is None else label.transpose(order))
    else:
        box = nonzero_box(image)
        cropped = image[(slice(None), *(slice(start, stop) for start, stop in box))]
    spacing = spacing_of(geometry, plan)
    target = target_of(configuration, spacing)
    shape = resampled_shape(cropped.shape[1:], spacing, target)
    require_memory(
        4 * image.shape[0] * math.prod(shape),
        f"The image has {_by(cropped.shape[1:])} voxels of {_by(spacing)} mm and would become {_by(shape)} voxels of "
        f"{_by(target)} mm. Correct the spacing in its header if it is wrong; else crop it, or work where there is "
        "more memory",
    )
    if any(max(one, other) > _APART * min(one, other) for one, other in zip(spacing, target, strict=True)):
        raise DatasetError(
            f"The image has voxels of {_by(spacing)} mm, on an axis more than {_APART} times as long or as short as "
            f"the {_by(target)} mm that it would be resampled to: its header is wrong, or in another unit. Correct it."
        )
    axes = range(3 - len(configuration.spacing), 3)  # those that are resampled
    if all(_FINEST * spacing[axis] < target[axis] for axis in axes):
        raise DatasetError(
            f"The image has voxels of {_by(spacing)} mm, less than a {_FINEST}th of the {_by(target)} mm that it would "
            f"be resampled to, and {_by(shape)} of them: its header is wrong, or in another unit. Correct it."
        )
    depth, height, width = shape
    properties = CaseProperties(
        geometry=geometry, shape_before_crop=image.shape[1:], box=box, shape=(depth, height, width)
    )
    return cropped, mask, properties


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def spacing_of(geometry: Geometry, plan: Plan) -> tuple[float, ...]:
    """Spacing of a case in the plan's order of axes."""
    return tuple(geometry.spacing[axis] for axis in plan.transpose_forward)


def target_of(configuration: Configuration, spacing: Sequence[float]) -> tuple[float, ...]:
    """Spacing after resampling, for a case of the given (transposed) spacing; 2D keeps the distance of slices."""
    target = configuration.spacing
    return target if len(target) == 3 else (spacing[0], *target)


def foreground_locations(label: np.ndarray, plan: Plan) -> dict[int, np.ndarray]:
    """Voxels to centre patches on, of each class by its value, or of each region by its number from 1.

    Args:
        label: (Z, Y, X) preprocessed label.
        plan: Says what is foreground.
    """
    if plan.regions:
        return class_locations(label, {number: region.labels for number, region in enumerate(plan.regions, start=1)})
    return class_locations(label, {value: (value,) for value in plan.labels.values() if value > 0})


def annotated_locations(label: np.ndarray, plan: Plan) -> np.ndarray:
    """Voxels, of whatever class, that are not the ignore label, to centre patches on where most voxels are ignored.

    Returns:
        (n, 3) as of `class_locations`; n = 0 for a data set without an ignore label.
    """
    if plan.ignore_label is None:
        return np.empty((0, 3), dtype=np.int32)
    return class_locations((label != plan.ignore_label).astype(np.int8), {1: (1,)})[1]


def class_locations(label: np.ndarray, classes: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
    """Voxels of each class, or region, to centre patches on: a random choice without replacement.

    Args:
        label: (Z, Y, X) preprocessed label.
        classes: Class -> its label values, in the order in which one random generator draws for them.

    Returns:
        Per class (n, 3) int32 coordinates (z, y, x), n = max(min(10000, N), ceil(0.01 N)) of its N voxels; n = 0 for an
        absent class.
    """
    random = np.random.RandomState(_SEED)
    located = {}
    for name, values in classes.items():
        mask = label == values[0]
        for value in values[1:]:
            mask |= label == value
        voxels = np.flatnonzero(mask)  # one class at a time: 8 bytes per voxel add up
        if not voxels.size:
            located[name] = np.empty((0, 3), dtype=np.int32)
            continue
        count = max(min(_MIN_LOCATIONS, voxels.size), math.ceil(_MIN_SHARE * voxels.size))
        chosen = voxels[random.choice(voxels.size, count, replace=False)]
        located[name] = np.stack(np.unravel_index(chosen, label.shape), axis=1).astype(np.int32)
    return located
