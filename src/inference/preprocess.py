"""Preprocessing on a GPU: the arithmetic of `umamba.planning`, which stays without torch, on tensors.

On a CPU it is `preprocess_case` itself, the function that made the training's data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from umamba.planning.configuration import Configuration
from umamba.planning.intensities import MIN_STD, Intensities
from umamba.planning.normalization import check_bytes, check_spread
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties, crop_case, preprocess_case, spacing_of, target_of
from umamba.planning.resampling import nearest_index, separate_axis, spline_matrix
from umamba.raw.readers import Geometry

_VOXELS_AT_ONCE = 1 << 24  # of slices that are resized together

Scheme = Callable[[Tensor, Tensor | None, Intensities], Tensor]


def preprocess_on(
    device: torch.device, image: np.ndarray, geometry: Geometry, plan: Plan, configuration: Configuration
) -> tuple[Tensor, CaseProperties]:
    """Preprocess the image of a case for a network; arguments as of `preprocess_case`.

    Returns:
        (C, Z, Y, X) float32 on the device, normalised and resampled; and what the way back takes.

    Raises:
        ValueError, MemoryError: See `preprocess_case`.
        torch.OutOfMemoryError: The device has too little memory.
    """
    if device.type == "cpu":
        case = preprocess_case(image, geometry, None, plan, configuration)
        return torch.from_numpy(case.data), case.properties
    cropped, mask, properties = crop_case(image, geometry, None, plan, configuration)
    outside = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    return preprocess_tensors(cropped, outside, properties, plan, configuration, device), properties


@torch.inference_mode()
def preprocess_tensors(
    image: np.ndarray,
    mask: Tensor | None,
    properties: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    device: torch.device,
) -> Tensor:
    """Normalise and resample a cropped case; image, mask and properties as `crop_case` returns them."""
    spacing = spacing_of(properties.geometry, plan)
    target = target_of(configuration, spacing)
    data = torch.empty((len(image), *properties.shape), device=device)
    for i, scheme in enumerate(configuration.normalization):
        channel = torch.from_numpy(image[i]).to(device, torch.float32, copy=True).contiguous()
        within = mask if configuration.use_mask_for_norm[i] else None
        channel = SCHEMES[scheme](channel, within, plan.intensities[i])
        data[i] = resample_volume(channel, properties.shape, spacing, target)
    return data


def resample_volume(volume: Tensor, shape: Sequence[int], current: Sequence[float], new: Sequence[float]) -> Tensor:
    """`umamba.planning.resampling.resample_image` of a tensor: cubic, by the same matrices, in float32."""
    shape = tuple(shape)
    if tuple(volume.shape) == shape:
        return volume
    axis = separate_axis(current, new)
    with _float32_products():
        if axis is None:
            low, high = volume.aminmax()
            return _along_first(_in_plane(volume, shape[1:]), shape[0]).clamp_(low, high)
        moved, wanted = volume.movedim(axis, 0), (shape[axis], *(n for i, n in enumerate(shape) if i != axis))
        sources, place = np.unique(nearest_index(moved.shape[0], wanted[0]), return_inverse=True)
        used = moved[torch.from_numpy(sources).to(volume.device)]
        resized = _in_plane(used, wanted[1:])
        resized = resized.clamp_(used.amin((1, 2), keepdim=True), used.amax((1, 2), keepdim=True))
        return resized[torch.from_numpy(place).to(volume.device)].movedim(0, axis)


def _in_plane(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """(Z, Y, X) -> (Z, *shape), a tensor of its own; an axis that keeps its size keeps its values."""
    rows, columns = (_matrix(*sizes, volume.device) for sizes in zip(volume.shape[1:], shape, strict=True))
    result = volume.new_empty((len(volume), *shape))
    at_once = max(1, _VOXELS_AT_ONCE // max(math.prod(shape), math.prod(volume.shape[1:])))
    for source, target in zip(volume.split(at_once), result.split(at_once), strict=True):
        part = source if rows is None else rows @ source
        target.copy_(part if columns is None else part @ columns.T)
    return result


def _along_first(volume: Tensor, size: int) -> Tensor:
    matrix = _matrix(len(volume), size, volume.device)
    return volume if matrix is None else (matrix @ volume.reshape(len(volume), -1)).view(size, *volume.shape[1:])


def _matrix(size_in: int, size_out: int, device: torch.device) -> Tensor | None:
    if size_in == size_out:
        return None
    matrix = spline_matrix(size_in, size_out)
    return torch.from_numpy(matrix.toarray() if sparse.issparse(matrix) else matrix).to(device)


@contextmanager
def _float32_products() -> Iterator[None]:
    """Whatever rounding the network's products are allowed (tf32), a spline's are not."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _ct(channel: Tensor, mask: Tensor | None, intensities: Intensities) -> Tensor:
    channel = channel.clamp_(intensities.percentile_00_5, intensities.percentile_99_5)
    return channel.sub_(intensities.mean).div_(max(intensities.std, MIN_STD))


def _z_score(channel: Tensor, mask: Tensor | None, intensities: Intensities) -> Tensor:
    inside = None if mask is None else mask >= 0
    std, mean = torch.std_mean(channel if inside is None else channel[inside], correction=0)
    check_spread(float(std), *(float(value) for value in channel.aminmax()))
    divisor = std.clamp(min=MIN_STD)
    if inside is None:
        return channel.sub_(mean).div_(divisor)
    return torch.where(inside, (channel - mean) / divisor, channel)


def _no_norm(channel: Tensor, mask: Tensor | None, intensities: Intensities) -> Tensor:
    return channel


def _rescale_0_1(channel: Tensor, mask: Tensor | None, intensities: Intensities) -> Tensor:
    low, high = (float(value) for value in channel.aminmax())
    check_spread(high - low, low, high)
    channel = channel.sub_(low)
    return channel.div_(channel.amax().clamp(min=MIN_STD))


def _rgb_0_1(channel: Tensor, mask: Tensor | None, intensities: Intensities) -> Tensor:
    check_bytes(*(float(value) for value in channel.aminmax()))
    return channel.div_(255.0)


SCHEMES: dict[str, Scheme] = {
    "CTNormalization": _ct,
    "ZScoreNormalization": _z_score,
    "NoNormalization": _no_norm,
    "RescaleTo01Normalization": _rescale_0_1,
    "RGBTo01Normalization": _rgb_0_1,
}
