"""`umamba.datamodules.augmentation.resampling` for batches on a device: each sample by a matrix of its own.

A cubic spline's value is a weighted mean of 2^d linear interpolations of its coefficients (Sigg and Hadwiger, "Fast
third-order texture filtering", GPU Gems 2, chapter 20), which `grid_sample` computes in one launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.ndimage as ndi
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from umamba.datamodules.augmentation.device.stage import along_axis

_NO_LABEL = torch.iinfo(torch.int16).max


@lru_cache(maxsize=16)
def prefilter(size: int, device: torch.device) -> Tensor:
    """(1, size, size): an axis's coefficients of the cubic spline that scipy's mode "constant" interpolates."""
    matrix = ndi.spline_filter1d(np.eye(size), order=3, axis=0, mode="mirror").astype(np.float32)
    return torch.from_numpy(matrix)[None].to(device)


@lru_cache(maxsize=16)  # else each call would wait for a copy to the device
def extents(spatial: tuple[int, ...], device: torch.device) -> Tensor:
    """The shape of an image as numbers on the device, (d,) float64."""
    return torch.tensor(spatial, dtype=torch.float64, device=device)


def coordinates(matrix: Tensor, offset: Tensor, size: Sequence[int], start: int = 0) -> Tensor:
    """Where each voxel of the result comes from, in voxels.

    Args:
        matrix: (S, d, d) float64.
        offset: (S, d) float64, where the result's first voxel comes from.
        size: Of the part of the result that is wanted.
        start: First index of that part along the first axis.

    Returns:
        (S, d, *size) float64.
    """
    dims = len(size)
    shape = (*offset.shape, *(1,) * dims)
    total: Tensor | None = None
    for axis, n in enumerate(size):
        first = start if axis == 0 else 0
        steps = torch.arange(first, first + n, device=matrix.device, dtype=torch.float64)
        steps = steps.view(*(n if a == axis else 1 for a in range(dims)))
        term = matrix[:, :, axis].reshape(shape) * steps
        total = term if total is None else total + term  # in the order of the CPU's version: the same bits
    assert total is not None  # for mypy: there are two axes or three
    return total + offset.reshape(shape)


def outside_of(where: Tensor, shape: Sequence[int], *, cut: bool) -> Tensor:
    """Whether coordinates leave the outermost voxels' centres, or (not cut) those of one more voxel.

    Args:
        where: (S, d, *size).
        shape: Of the image, *spatial.
        cut: As in `affine_label`.

    Returns:
        (S, *size) bool.
    """
    low, high = (0, -1) if cut else (-1, 0)
    return ((where < low) | (where > _over_axes(shape, where).add(high))).any(1)


def cubic_coefficients(image: Tensor, filters: Sequence[Tensor]) -> Tensor:
    """Spline coefficients of images (S, C, *spatial), by a matrix (1, n, n) for each axis."""
    flat = image.flatten(0, 1)
    for axis, matrix in enumerate(filters):
        flat = along_axis(flat, matrix, axis)
    return flat.view(image.shape)


def cubic_image(coefficients: Tensor, where: Tensor) -> Tensor:
    """Values of splines at coordinates, continued by mirroring.

    Args:
        coefficients: (S, C, *spatial) float32.
        where: (S, d, *size) float64.

    Returns:
        (S, C, *size) float32.
    """
    spatial, dims = coefficients.shape[2:], where.shape[1]
    floor = where.floor()
    t = (where - floor).float()
    w0, w3 = (1 - t).pow_(3).div_(6), t.pow(3).div_(6)
    w1 = t.sub(2).mul_(t).mul_(t).div_(2).add_(2 / 3)  # (3 t^3 - 6 t^2 + 4) / 6
    lower = w0.add_(w1)  # the lower two taps' share; the upper two have the rest
    upper = 1 - lower
    # The two taps' mean place, relative to the centre of the image and in halves of its extent
    extent = _over_axes(spatial, where).sub(1)[:, None]
    places = torch.stack([floor.sub(1).add_(w1.div_(lower)), floor.add_(1).add_(w3.div_(upper))], dim=2)
    places = places.mul_(2).sub_(extent).div_(extent.clamp_(min=1)).float()  # (S, d, 2, *size)
    grid = _corners(places)  # (S, *(2,) * d, *size, d)
    folded = grid.view(len(grid), 2**dims * grid.shape[dims + 1], *grid.shape[dims + 2 :])
    values = grid_sample(coefficients, folded, mode="bilinear", padding_mode="reflection", align_corners=True)
    values = values.view(*values.shape[:2], *(2,) * dims, *where.shape[2:])
    for axis in range(dims):
        weight = upper[:, axis].view(len(upper), 1, *(1,) * (dims - 1 - axis), *where.shape[2:])
        values = torch.lerp(values[:, :, 0], values[:, :, 1], weight)
    return values


def linear_image(image: Tensor, where: Tensor, padding: float) -> Tensor:
    """Images (S, C, *spatial) at coordinates (S, d, *size), blended with the padding beyond the border."""
    spatial = image.shape[2:]
    relative = where.add(0.5).mul_(2).div_(_over_axes(spatial, where)).sub_(1)
    grid = relative.movedim(1, -1).flip(-1).float()  # torch orders (x, y[, z])
    shifted = image - padding if padding else image
    values = grid_sample(shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.add_(padding) if padding else values


def linear_label(label: Tensor, where: Tensor, padding: int) -> Tensor:
    """Of each voxel the label whose linearly interpolated indicator is largest, ties going to the smallest.

    Args:
        label: (S, P, *spatial) int16; the P slices share coordinates.
        where: (S, d, *size) float64.
        padding: Label outside of the map.

    Returns:
        (S, P, *size) int16, arbitrary where `outside_of` is true.
    """
    samples, planes, *spatial = label.shape
    dims, size = len(spatial), where.shape[2:]
    bounds = [n + 2 for n in spatial]
    flat = pad(label, (1, 1) * dims, value=padding).view(samples, planes, -1)
    base, fractions = [], []
    for axis, bound in enumerate(bounds):
        coordinate = (where[:, axis] + 1).clamp_(0, bound - 1)
        corner = coordinate.floor().clamp_(max=bound - 2)
        base.append(corner.long())
        fractions.append((coordinate - corner).float().flatten(1))
    first = base[0]
    for corner, bound in zip(base[1:], bounds[1:], strict=True):
        first = first.mul_(bound).add_(corner)
    weights, steps, stride = None, [0], 1
    for bound in reversed(bounds):
        steps = [step + ahead for ahead in (0, stride) for step in steps]
        stride *= bound
    for fraction in fractions:  # (S, V): the first axis first, as on the CPU
        pair = torch.stack([1 - fraction, fraction], dim=1)
        weights = pair if weights is None else (weights[:, :, None] * pair[:, None]).flatten(1, 2)
    assert weights is not None  # for mypy
    corners = [
        flat.gather(2, first.add(step).view(samples, 1, -1).expand(-1, planes, -1)) for step in steps
    ]  # 2^d of (S, P, V)
    stacked = torch.stack(corners, dim=2)
    shares = torch.zeros(stacked.shape, device=label.device)
    for number, corner in enumerate(corners):
        same = stacked == corner[:, :, None]
        shares.add_(torch.where(same, weights[:, None, number : number + 1], 0.0))
    winner = torch.where(shares == shares.amax(2, keepdim=True), stacked, _NO_LABEL).amin(2)
    return winner.view(samples, planes, *size)


def _over_axes(spatial: Sequence[int], where: Tensor) -> Tensor:
    """The shape of an image, ready to be broadcast against coordinates (S, d, *size)."""
    return extents(tuple(spatial), where.device).view(-1, *(1,) * (where.ndim - 2))


def _corners(places: Tensor) -> Tensor:
    """Of two places along each axis (S, d, 2, *size) all 2^d points, (S, *(2,) * d, *size, d) in torch's order."""
    samples, dims, _, *size = places.shape
    grid = places.new_empty(samples, *(2,) * dims, *size, dims)
    for axis in range(dims):
        choice = [2 if a == axis else 1 for a in range(dims)]
        grid[..., dims - 1 - axis] = places[:, axis].view(samples, *choice, *size)
    return grid
