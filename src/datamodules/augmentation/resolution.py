"""Random blur and simulated low resolution as nnU-Net does them, each channel on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import torch
import torchio as tio
from torch.nn.functional import interpolate
from torchio.transforms.augmentation import RandomTransform

from umamba.datamodules.augmentation.draws import coin, uniform
from umamba.datamodules.augmentation.spatial import is_anisotropic
from umamba.planning.splines import resize_plane, spline_weights


class _RandomPerChannel(RandomTransform, tio.IntensityTransform):
    """Changes each channel with a probability of its own."""

    def __init__(self, channel_p: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel_p = self.parse_probability(channel_p)

    def draw(self, channels: int, dims: int) -> list[Any]:
        """Draw for each channel how it is changed, or None; `dims` is the number of spatial axes, 2 or 3."""
        chosen = [coin(self.channel_p) for _ in range(channels)]
        return [self.draw_change(dims) if drawn else None for drawn in chosen]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Change the images of the subject; label maps stay."""
        for image in self.get_images(subject):
            spatial = image.data.shape[1:-1] if image.data.shape[-1] == 1 else image.data.shape[1:]  # 2D: (C, Y, X, 1)
            changes = self.draw(len(image.data), len(spatial))
            if any(change is not None for change in changes):
                channels = [
                    channel if change is None else self.change(channel.reshape(spatial), change).reshape(channel.shape)
                    for channel, change in zip(image.data, changes, strict=True)
                ]
                image.set_data(torch.stack(channels))
        return subject

    def draw_change(self, dims: int) -> Any:
        """Draw how a channel is changed."""
        raise NotImplementedError

    def change(self, channel: torch.Tensor, drawn: Any) -> torch.Tensor:
        """One channel, (Y, X) or (Z, Y, X), changed as drawn."""
        raise NotImplementedError


class RandomChannelBlur(_RandomPerChannel):
    """Blur with a Gaussian whose width is drawn per channel, in voxels.

    torchio's RandomBlur has one width in mm for all channels.

    Args:
        sigmas: Range of the standard deviation in voxels.
        channel_p: Probability for each channel, where the transform is applied.
        rule: nnU-Net's, "2.1": one width for all axes, a kernel of 4 standard deviations to either side, edges
            reflected; or "2.8": a width for each axis, 3 standard deviations, edges mirrored at the outermost voxel.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: The sigmas are no range, or there is no such rule.
    """

    def __init__(
        self, sigmas: tuple[float, float] = (0.5, 1.0), *, channel_p: float = 0.5, rule: str = "2.1", **kwargs: Any
    ) -> None:
        super().__init__(channel_p, **kwargs)
        low, high = (float(sigma) for sigma in sigmas)
        if not 0 <= low <= high:
            raise ValueError(f"sigmas must be a range (low, high) from 0 on, in voxels; it is {tuple(sigmas)}.")
        if rule not in ("2.1", "2.8"):
            raise ValueError(f'rule must be "2.1" or "2.8", it is {rule!r}.')
        self.sigmas = (low, high)
        self.rule = rule

    def draw_change(self, dims: int) -> list[float]:
        """Draw the width for each axis, in voxels."""
        if self.rule == "2.1":
            return [uniform(*self.sigmas)] * dims
        return [uniform(*self.sigmas) for _ in range(dims)]

    def radius(self, sigma: float) -> int:
        """How far the kernel of this width reaches to either side, in voxels."""
        return int(4 * sigma + 0.5) if self.rule == "2.1" else int(3 * sigma + 0.25)

    def change(self, channel: torch.Tensor, drawn: Sequence[float]) -> torch.Tensor:
        """The channel blurred with these widths."""
        radii = [self.radius(sigma) for sigma in drawn]
        if self.rule == "2.1":
            return torch.from_numpy(ndi.gaussian_filter(channel.numpy(), drawn, mode="reflect", radius=radii))
        return torch.from_numpy(ndi.gaussian_filter(channel.numpy(), drawn, mode="mirror", radius=radii))


class RandomLowResolution(_RandomPerChannel):
    """Sample down by nearest neighbour and up again by splines, so that detail is lost and the shape kept.

    Args:
        patch_size: Of the plan; a 3D patch that is augmented in plane keeps the resolution of its first axis.
        zooms: Range of the factor that sizes are multiplied with.
        channel_p: Probability for each channel, where the transform is applied.
        order: Of the spline that samples up: 3 (nnU-Net 2.1) or 1 (2.8).
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: The zooms are no range within (0, 1], or the order is another.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        *,
        zooms: tuple[float, float] = (0.5, 1.0),
        channel_p: float = 0.5,
        order: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(channel_p, **kwargs)
        low, high = (float(zoom) for zoom in zooms)
        if not 0 < low <= high <= 1:
            raise ValueError(f"zooms must be a range (low, high) within (0, 1], it is {tuple(zooms)}.")
        if order not in (1, 3):
            raise ValueError(f"order must be 1 (linear) or 3 (cubic), it is {order!r}.")
        self.keeps_first_axis = is_anisotropic(patch_size)
        self.zooms = (low, high)
        self.order = order

    def draw_change(self, dims: int) -> float:
        """Draw the factor that sizes are multiplied with."""
        return uniform(*self.zooms)

    def change(self, channel: torch.Tensor, drawn: float) -> torch.Tensor:
        """The channel at a lower resolution, in its old shape."""
        return lower_resolution(channel, drawn, order=self.order, keep_first=self.keeps_first_axis)


def zoomed_size(size: int, zoom: float) -> int:
    """How many voxels of an axis are left, half rounded to even."""
    return max(1, round(size * zoom))


def nearest_voxels(size: int, fewer: int) -> np.ndarray:
    """Of an axis of `size` voxels the nearest to each of `fewer` ones, int64."""
    return np.floor((np.arange(fewer) + 0.5) * (size / fewer)).astype(np.int64)  # = floor(source + 0.5)


def lower_resolution(image: torch.Tensor, zoom: float, *, order: int, keep_first: bool = False) -> torch.Tensor:
    """Sample an image down by `zoom` (nearest) and up again (spline, clipped to the range of the small image).

    Sampling up is the same for every row of an axis, so that it is a product with a small matrix per axis: some twenty
    times faster than an interpolation voxel by voxel. Of a plane, whose axes are long, that matrix is a sparse one.

    Args:
        image: float32 tensor (Y, X) or (Z, Y, X).
        zoom: Factor that sizes are multiplied with, then rounded half to even.
        order: Of the spline, 1 or 3.
        keep_first: Leave the first axis alone.

    Returns:
        float32 tensor of the same shape.
    """
    small = image
    for axis, n in enumerate(image.shape):
        if not (keep_first and axis == 0):
            small = small.index_select(axis, torch.from_numpy(nearest_voxels(n, zoomed_size(n, zoom))))
    if order == 1:
        mode = "bilinear" if image.ndim == 2 else "trilinear"
        return interpolate(small[None, None], image.shape, mode=mode, align_corners=False)[0, 0]
    if image.ndim == 2:
        large = torch.from_numpy(resize_plane(small.numpy(), (image.shape[0], image.shape[1])))
        return large.clamp(*small.aminmax())
    large = small
    for axis, n in enumerate(image.shape):
        if small.shape[axis] != n:
            matrix = torch.from_numpy(spline_weights(small.shape[axis], n, order)).float()
            large = torch.movedim(torch.tensordot(matrix, large, dims=([1], [axis])), 0, axis)
    return large.clamp(*small.aminmax())
