"""`umamba.datamodules.augmentation.resampling` for batches on a device: each sample by a matrix of its own.

A cubic spline's value is a weighted mean of 2^d linear interpolations of its coefficients (Sigg and Hadwiger, "Fast
third-order texture filtering", GPU Gems 2, chapter 20), which `grid_sample` computes in one launch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.ndimage as ndi
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from umamba.datamodules.augmentation.device.stage import along_axis

POLE = math.sqrt(3.0) - 2.0  # of the cubic spline's prefilter
_NO_LABEL = torch.iinfo(torch.int16).max


@lru_cache(maxsize=16)
def prefilter(size: int, device: torch.device) -> Tensor:
    """(1, size, size): an axis's coefficients of the cubic spline that scipy's mode "constant" interpolates."""
    matrix = ndi.spline_filter1d(np.eye(size), order=3, axis=0, mode="mirror").astype(np.float32)
    return torch.from_numpy(matrix)[None].to(device)


@lru_cache(maxsize=64)  # else each call would wait for a copy to the device
def numbers(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Whole numbers on the device, (n,) float64."""
    return torch.tensor(values, dtype=torch.float64, device=device)


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
        term = matrix[:, :, axis].reshape(shape) * steps.view(*(n if a == axis else 1 for a in range(dims)))
        total = term if total is None else total + term  # in the order of the CPU's version: the same bits
    assert total is not None  # for mypy: there are two axes or three
    return total.add_(offset.reshape(shape))


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
    return ((where < low) | (where > _for_axes([n + high for n in shape], where))).any(1)


def cells_of(where: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The cell that each point is in, and where in it; for points that `outside_of` calls outside some cell.

    Args:
        where: (S, d, *size).
        shape: Of the image, *spatial.

    Returns:
        (S, d, *size) float64, the cell's lowest corner, -1 at least; (S, d, *size) float32, 0 to 1.
    """
    cell = where.floor()
    cell = torch.minimum(cell.clamp_(min=-1), _for_axes([n - 1 for n in shape], where))
    return cell, (where - cell).float()


def cubic_coefficients(image: Tensor, filters: Sequence[Tensor]) -> Tensor:
    """Spline coefficients of images (S, C, *spatial), by a matrix (1, n, n) for each axis."""
    flat = image.flatten(0, 1)
    for axis, matrix in enumerate(filters):
        flat = along_axis(flat, matrix, axis)
    return flat.view(image.shape)


def cubic_image(coefficients: Tensor, cell: Tensor, t: Tensor) -> Tensor:
    """Values of splines at points, continued by mirroring.

    Args:
        coefficients: (S, C, *spatial) float32.
        cell: As `cells_of` gives it, (S, d, *size).
        t: As `cells_of` gives it.

    Returns:
        (S, C, *size) float32.
    """
    spatial, dims = coefficients.shape[2:], cell.shape[1]
    w0, w3 = (1 - t).pow_(3).div_(6), t.pow(3).div_(6)
    w1 = (t - 2).mul_(t).mul_(t).div_(2).add_(2 / 3)  # (3 t^3 - 6 t^2 + 4) / 6
    lower = w0.add_(w1)  # the lower two taps' share; the upper two have the rest
    upper = 1 - lower
    # The two taps' mean place, relative to the centre of the image and in halves of its extent
    places = torch.stack([w1.div_(lower).sub_(1) + cell, w3.div_(upper).add_(1) + cell], dim=2)
    places.mul_(2).sub_(_for_axes([n - 1 for n in spatial], places)).div_(
        _for_axes([max(1, n - 1) for n in spatial], places)
    )
    grid = _corners(places)  # (S, *(2,) * d, *size, d)
    folded = grid.view(len(grid), 2**dims * grid.shape[dims + 1], *grid.shape[dims + 2 :])
    values = grid_sample(coefficients, folded, mode="bilinear", padding_mode="reflection", align_corners=True)
    values = values.view(*values.shape[:2], *(2,) * dims, *cell.shape[2:])
    for axis in range(dims):
        weight = upper[:, axis].view(len(upper), 1, *(1,) * (dims - 1 - axis), *cell.shape[2:])
        values = torch.lerp(values[:, :, 0], values[:, :, 1], weight)
    return values


def linear_image(image: Tensor, where: Tensor, padding: float) -> Tensor:
    """Images (S, C, *spatial) at coordinates (S, d, *size), blended with the padding beyond the border."""
    spatial = image.shape[2:]
    relative = where.add(0.5).mul_(2).div_(_for_axes(spatial, where)).sub_(1)
    grid = relative.movedim(1, -1).flip(-1).float()  # torch orders (x, y[, z])
    shifted = image - padding if padding else image
    values = grid_sample(shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.add_(padding) if padding else values


def linear_label(label: Tensor, cell: Tensor, t: Tensor, padding: int) -> Tensor:
    """Of each point the label whose linearly interpolated indicator is largest, ties going to the smallest.

    Args:
        label: (S, P, *spatial) int16; the P slices share the points.
        cell: As `cells_of` gives it, (S, d, *size).
        t: As `cells_of` gives it.
        padding: Label outside of the map.

    Returns:
        (S, P, *size) int16, arbitrary where `outside_of` is true.
    """
    samples, planes, *spatial = label.shape
    dims, size = len(spatial), cell.shape[2:]
    flat = pad(label, (1, 1) * dims, value=padding).view(samples, planes, -1)
    strides = [math.prod(n + 2 for n in spatial[axis + 1 :]) for axis in range(dims)]
    steps = [0]
    for stride in reversed(strides):
        steps = [step + ahead for ahead in (0, stride) for step in steps]  # the first axis slowest
    first = ((cell + 1) * _for_axes(strides, cell)).sum(1).view(samples, 1, -1)
    corners = (first + numbers(tuple(steps), cell.device)[:, None]).long()  # (S, K, V), K = 2^d
    labels = flat.gather(2, corners.view(samples, 1, -1).expand(-1, planes, -1)).view(samples, planes, len(steps), -1)
    both = torch.stack([1 - t, t], dim=2).flatten(3)  # (S, d, 2, V)
    weights = both[:, 0]
    for axis in range(1, dims):  # multiplied in the order of the CPU's version: the same bits
        weights = (weights[:, :, None] * both[:, axis, None]).flatten(1, 2)  # (S, K, V)
    # Of each corner the weights of all that have its label
    shares = ((labels[:, :, :, None] == labels[:, :, None]) * weights[:, None, None]).sum(3)  # (S, P, K, V)
    beaten = shares != shares.amax(2, keepdim=True)
    return labels.masked_fill(beaten, _NO_LABEL).amin(2).view(samples, planes, *size)


def _for_axes(values: Sequence[int], like: Tensor) -> Tensor:
    """A number for each axis, ready to be broadcast against a tensor (S, d, ...)."""
    return numbers(tuple(values), like.device).view(-1, *(1,) * (like.ndim - 2))


def _corners(places: Tensor) -> Tensor:
    """Of two places along each axis (S, d, 2, *size) all 2^d points, (S, *(2,) * d, *size, d) in torch's order."""
    samples, dims, _, *size = places.shape
    grid = torch.empty(samples, *(2,) * dims, *size, dims, device=places.device)
    for axis in range(dims):
        choice = [2 if a == axis else 1 for a in range(dims)]
        grid[..., dims - 1 - axis] = places[:, axis].view(samples, *choice, *size)
    return grid
