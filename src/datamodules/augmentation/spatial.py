"""Random rotation, scaling and mirroring as nnU-Net does them; rotation and scaling are one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio
from torchio.transforms.augmentation import RandomTransform

from umamba.datamodules.augmentation.draws import around_one, coin, uniform
from umamba.datamodules.augmentation.resampling import affine_image, affine_label, centre_crop
from umamba.planning.topology import ANISOTROPY

_SMALLEST_SCALE = 0.85  # nnU-Net enlarges the patch for this scale, not for the smallest that is drawn


def is_anisotropic(patch_size: Sequence[int]) -> bool:
    """Whether a 3D patch is augmented slice by slice (nnU-Net's "dummy 2D"): its first axis is much the shortest."""
    return len(patch_size) == 3 and max(patch_size) / patch_size[0] > ANISOTROPY


def default_degrees(patch_size: Sequence[int]) -> float:
    """nnU-Net's largest rotation: 30 about each axis in 3D; in plane 180, or 15 for an elongated 2D patch."""
    if len(patch_size) == 2:
        return 15.0 if max(patch_size) / min(patch_size) > 1.5 else 180.0
    return 180.0 if is_anisotropic(patch_size) else 30.0


def enlarged_patch_size(patch_size: Sequence[int], degrees: float) -> tuple[int, ...]:
    """What nnU-Net reads so that a rotated patch is mostly filled.

    Per axis the largest extent of the vector `patch_size` under a rotation by `degrees` (90 at most) about one axis at
    a time, divided by 0.85 and truncated; slices of an anisotropic patch are left alone.
    """
    size = np.asarray(patch_size, dtype=float)
    angle = math.radians(min(90.0, degrees))
    in_plane = len(size) == 3 and is_anisotropic(patch_size)
    planes = [(1, 2)] if in_plane else [(1, 2), (0, 2), (0, 1)] if len(size) == 3 else [(0, 1)]
    largest = size.copy()
    for first, second in planes:
        # Row vector times rotation matrix; about axis 1 the sense is the other one.
        sine = math.sin(angle) * (-1 if (first, second) == (0, 2) else 1)
        rotated = size.copy()
        rotated[first] = abs(size[first] * math.cos(angle) + size[second] * sine)
        rotated[second] = abs(size[second] * math.cos(angle) - size[first] * sine)
        largest = np.maximum(largest, rotated)
    largest = (largest / _SMALLEST_SCALE).astype(int)
    if in_plane:
        largest[0] = patch_size[0]
    return tuple(int(n) for n in largest)


def rotation_matrix(angles: Sequence[float]) -> np.ndarray:
    """Matrix of a 2D rotation (one angle) or of 3D rotations about axis 0, then 1, then 2; angles in radians."""
    if len(angles) == 1:
        return _plane_rotation(2, 0, 1, angles[0])
    about_0, about_1, about_2 = (
        _plane_rotation(3, *plane, angle) for plane, angle in zip([(1, 2), (2, 0), (0, 1)], angles, strict=True)
    )
    return about_2 @ about_1 @ about_0


def _plane_rotation(dims: int, first: int, second: int, angle: float) -> np.ndarray:
    matrix = np.eye(dims)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


class RandomRotationScaling(RandomTransform, tio.SpatialTransform):
    """Rotate and scale about the centre, and crop to the patch; a plain centre crop where neither is drawn.

    Images of a subject are interpolated with splines of the given order, label maps by the linear interpolation of each
    label's indicator, the largest winning. An anisotropic patch is treated slice by slice.

    Args:
        patch_size: Size of the result, 2 or 3 axes. A 2D patch is a subject of shape (C, Y, X, 1).
        rotation_p: Probability of a rotation; if drawn, about every axis.
        scaling_p: Probability of a scaling, the same for all axes (in plane only for an anisotropic patch).
        degrees: Largest angle; None for nnU-Net's choice by the patch's shape.
        scales: Range of the factor; above 1 objects become smaller.
        balanced_scales: Draw half of the factors below 1 and half above (nnU-Net 2.1) instead of uniformly (2.8).
        order: 3, splines as nnU-Net 2.1, or 1, linear as 2.8, which also blends with the padding over the last half
            voxel, where the former cuts off.
        image_padding: Value outside of the image.
        label_padding: Label outside of the image.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: A parameter is out of range.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        *,
        rotation_p: float = 0.2,
        scaling_p: float = 0.2,
        degrees: float | None = None,
        scales: tuple[float, float] = (0.7, 1.4),
        balanced_scales: bool = True,
        order: int = 3,
        image_padding: float = 0.0,
        label_padding: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(patch_size) not in (2, 3) or min(patch_size) < 1:
            raise ValueError(f"patch_size must be 2 or 3 positive numbers, it is {tuple(patch_size)}.")
        if order not in (1, 3):
            raise ValueError(f"order must be 1 (linear) or 3 (cubic), it is {order!r}.")
        if not 0 < scales[0] <= scales[1]:
            raise ValueError(f"scales must be a range of positive factors, it is {tuple(scales)}.")
        self.patch_size = tuple(int(n) for n in patch_size)
        self.rotation_p = self.parse_probability(rotation_p)
        self.scaling_p = self.parse_probability(scaling_p)
        self.degrees = default_degrees(self.patch_size) if degrees is None else float(degrees)
        self.scales = (float(scales[0]), float(scales[1]))
        self.balanced_scales = balanced_scales
        self.order = order
        self.image_padding = image_padding
        self.label_padding = label_padding
        self.in_plane = is_anisotropic(self.patch_size)

    @property
    def input_size(self) -> tuple[int, ...]:
        """The enlarged patch that the transform wants to be given."""
        return enlarged_patch_size(self.patch_size, self.degrees)

    def draw(self) -> np.ndarray | None:
        """Draw the map from offsets in the result to offsets in the input; (d, d), or None if nothing is drawn."""
        rotate, scale = coin(self.rotation_p), coin(self.scaling_p)
        if not (rotate or scale):
            return None
        dims = 2 if self.in_plane else len(self.patch_size)
        matrix = np.eye(dims)
        if rotate:
            limit = math.radians(self.degrees)
            matrix = rotation_matrix([uniform(-limit, limit) for _ in range(3 if dims == 3 else 1)])
        if scale:
            matrix = matrix * (around_one(*self.scales) if self.balanced_scales else uniform(*self.scales))
        return matrix

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Transform every image and label map of the subject alike."""
        matrix = self.draw()
        for image in self.get_images(subject):
            image.set_data(self._transform(image.data, matrix, is_label=isinstance(image, tio.LabelMap)))
        return subject

    def _transform(self, data: torch.Tensor, matrix: np.ndarray | None, *, is_label: bool) -> torch.Tensor:
        padding = self.label_padding if is_label else self.image_padding
        flat = len(self.patch_size) == 2
        data = data[..., 0] if flat else data  # (C, Y, X) or (C, Z, Y, X)
        if matrix is None:
            result = centre_crop(data, self.patch_size, padding)
        else:
            if self.in_plane:  # slices neither move nor mix: as channels they share the coordinates
                data = centre_crop(data, (self.patch_size[0], *data.shape[2:]), padding)
            planes = data.flatten(0, 1) if self.in_plane else data  # (C * Z, Y, X)
            size = self.patch_size[1:] if self.in_plane else self.patch_size
            if is_label:
                result = affine_label(planes, matrix, size, int(padding), cut=self.order == 3)
            else:
                result = affine_image(planes, matrix, size, float(padding), order=self.order)
            result = result.reshape(data.shape[0], *self.patch_size)
        return result[..., None] if flat else result


class RandomMirror(RandomTransform, tio.SpatialTransform):
    """Reverse each axis with a probability of its own.

    torchio's RandomFlip 1.2.1 fails on a 2D subject, whose third axis has size 1, if that axis is the only one drawn.

    Args:
        axis_p: Probability for each axis.
        axes: Axes of the patch that may be mirrored; None for all.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: There is no such axis.
    """

    def __init__(self, *, axis_p: float = 0.5, axes: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis_p = self.parse_probability(axis_p)
        self.axes = (0, 1, 2) if axes is None else tuple(int(axis) for axis in axes)
        if not set(self.axes) <= {0, 1, 2}:
            raise ValueError(f"axes must be among 0, 1 and 2, they are {self.axes}.")

    def draw(self) -> list[int]:
        """Draw the axes of the patch that are mirrored."""
        return [axis for axis in self.axes if coin(self.axis_p)]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Mirror every image and label map of the subject alike."""
        drawn = [axis + 1 for axis in self.draw()]
        if drawn:
            for image in self.get_images(subject):
                image.set_data(image.data.flip(drawn))
        return subject
