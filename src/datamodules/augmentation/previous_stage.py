"""nnU-Net's augmentation of what the previous stage of a cascade segmented: it must not be trusted to the voxel.

The next stage's network is trained on segmentations of cases that the previous one did not see, and would still learn
to copy them. So their borders are moved, and parts of them taken away. Source: nnunetv2 2.8.1, whose numbers are the
defaults.

A label map has one label a voxel, before and after: what nnU-Net does channel by channel of the one-hot encoding, each
channel taking its new voxels from the others, is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import torch
import torchio as tio
from torchio.transforms.augmentation import RandomTransform

from umamba.datamodules.augmentation.draws import coin, uniform

PREVIOUS = "previous"  # name of the label map among the images of a subject


class _RandomPerLabel(RandomTransform):
    """Changes the previous stage's label map, each label of it with a probability of its own, in random order."""

    def __init__(self, label_p: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_p = self.parse_probability(label_p)

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Change the label map of the previous stage alone."""
        image = subject.get_images_dict(intensity_only=False)[PREVIOUS]
        label_map = image.data[0].numpy().copy()  # (Z, Y, X)
        for label in self.draw(label_map):
            if (label_map == label).any():  # others may have grown over it
                self.change(label_map, label)
        image.set_data(torch.from_numpy(label_map)[None])
        return subject

    def draw(self, label_map: np.ndarray) -> Iterator[int]:
        """Draw which labels are changed, and in which order."""
        labels = [int(label) for label in np.unique(label_map) if label > 0]
        for position in torch.randperm(len(labels)).tolist():
            if coin(self.label_p):
                yield labels[position]

    def change(self, label_map: np.ndarray, label: int) -> None:
        """Change one label in place."""
        raise NotImplementedError


class RandomBinaryOperator(_RandomPerLabel):
    """Dilate, erode, open or close labels with balls; a dilated label takes voxels from the others.

    A ball holds the voxels up to its radius. nnU-Net stretches it to a whole number of voxels, which moves the smallest
    by half a voxel.

    Args:
        label_p: Probability for each label, where the transform is applied.
        radii: Range of the radius, in voxels.
        p: Probability that it is applied.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: The radii are no range from 1 on.
    """

    def __init__(
        self, *, label_p: float = 0.5, radii: tuple[float, float] = (1, 8), p: float = 0.4, **kwargs: Any
    ) -> None:
        super().__init__(label_p, p=p, **kwargs)
        low, high = (float(radius) for radius in radii)
        if not 1 <= low <= high < math.inf:
            raise ValueError(f"radii must be a range (low, high) from 1 on, in voxels; it is {tuple(radii)}.")
        self.radii = (low, high)

    def change(self, label_map: np.ndarray, label: int) -> None:
        """Apply an operator that is drawn, with a radius that is drawn."""
        operator, radius = _OPERATORS[int(torch.randint(len(_OPERATORS), ()))], uniform(*self.radii)
        part = label_map[_around(label_map == label, int(radius) + 1)]
        before = part == label
        after = operator(before, radius)
        part[before & ~after] = 0
        part[after] = label


class RandomComponentRemoval(_RandomPerLabel):
    """Take one connected component of labels away, of those that are small; its voxels become background.

    Args:
        label_p: Probability for each label, where the transform is applied.
        most: Share of the patch that a component must be smaller than.
        p: Probability that it is applied.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: `most` is no share.
    """

    def __init__(self, *, label_p: float = 0.5, most: float = 0.15, p: float = 0.2, **kwargs: Any) -> None:
        super().__init__(label_p, p=p, **kwargs)
        if not 0 < most <= 1:
            raise ValueError(f"most is a share of the patch, above 0 and up to 1; it is {most}.")
        self.most = most

    def change(self, label_map: np.ndarray, label: int) -> None:
        """Remove a component that is drawn; voxels that touch at a corner are of one."""
        part = label_map[_around(label_map == label, 0)]
        components, _ = ndi.label(part == label, structure=np.ones((3,) * label_map.ndim))
        sizes = np.bincount(components.ravel())
        small = [number for number in range(1, len(sizes)) if sizes[number] < self.most * label_map.size]
        if small:
            part[components == small[int(torch.randint(len(small), ()))]] = 0


CASCADE_TRANSFORMS = (RandomBinaryOperator, RandomComponentRemoval)


def with_cascade_transforms(transforms: Sequence[tio.Transform]) -> list[tio.Transform]:
    """Transforms with nnU-Net's of a cascade behind them, unless there are some, or no augmentation at all."""
    if not transforms or any(isinstance(transform, CASCADE_TRANSFORMS) for transform in transforms):
        return list(transforms)
    return [*transforms, *(kind() for kind in CASCADE_TRANSFORMS)]


def dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """Voxels that are up to `radius` voxels from one of the mask; (*S) bool."""
    return ndi.distance_transform_edt(~mask) <= radius if mask.any() else mask


def eroded(mask: np.ndarray, radius: float) -> np.ndarray:
    """Voxels that are more than `radius` voxels from all that are not of the mask; outside of the array nothing is."""
    return ndi.distance_transform_edt(mask) > radius if not mask.all() else mask


def closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """The dilated mask, eroded."""
    return eroded(dilated(mask, radius), radius)


def opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """The eroded mask, dilated."""
    return dilated(eroded(mask, radius), radius)


_OPERATORS: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (dilated, eroded, closed, opened)


def _around(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The box of a mask that is not empty, and `margin` voxels more where the array has them."""
    box = ndi.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(0, one.start - margin), min(size, one.stop + margin))
        for one, size in zip(box, mask.shape, strict=True)
    )
