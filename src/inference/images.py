"""Images in memory, of NumPy, torch or SimpleITK: into a case as files are read, and results back into their kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from umamba.raw.description import DatasetError
from umamba.raw.origins import ORIGIN_LIMIT, ORIGIN_TOLERANCE
from umamba.raw.readers import Geometry
from umamba.raw.right_angles import check_right_angles

log = logging.getLogger(__name__)

Image = Any  # numpy.ndarray, torch.Tensor, SimpleITK.Image, or a sequence of SimpleITK.Image, one a channel


def as_case(image: Image, spacing: Sequence[float] | None) -> tuple[np.ndarray, Geometry]:
    """An image as `umamba.raw.readers.read_images` gives it.

    Args:
        image: An array or tensor of as many axes as the spacing has numbers, (Z, Y, X) or (Y, X), or of one more for
            the channels before them; or a SimpleITK image, of one value or one per channel a voxel; or several, one a
            channel.
        spacing: Voxel size in mm in the order of the array's axes; a picture without one has (1, 1). None for
            SimpleITK, whose images know theirs.

    Returns:
        (C, Z, Y, X) float32, a copy or the image itself, which is not changed; and its geometry.

    Raises:
        TypeError: It is no image, or a masked array.
        ValueError: Spacing and image do not fit; voxels are not finite.
    """
    images = list(image) if isinstance(image, (list, tuple)) else [image]
    if images and all(isinstance(one, sitk.Image) for one in images):
        array, geometry = _of_simpleitk(images, spacing)
    elif isinstance(image, (np.ndarray, torch.Tensor)):
        array, geometry = _of_array(image, _sizes(spacing))
    else:
        raise TypeError(
            f"Expected a NumPy array, a torch tensor, a SimpleITK image or a list of them, got {type(image).__name__}."
        )
    if not all(np.isfinite(size) and size > 0 for size in geometry.spacing):
        raise ValueError(f"spacing is {geometry.spacing} mm (z, y, x); expected numbers > 0.")
    if array.size == 0:
        raise ValueError(f"The image has no voxel: its shape is {array.shape} (channels, z, y, x).")
    with np.errstate(invalid="ignore"):  # infinities of both signs
        total = array.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise ValueError(
            "The image holds NaN or infinite voxels, or such beyond float32. Replace them, for instance by the "
            "background's value."
        )
    return array, geometry


def like(image: Image, values: np.ndarray, geometry: Geometry) -> Image:
    """Values on an image's grid, (Z, Y, X) or with classes (K, Z, Y, X), as the kind of image that was given.

    SimpleITK gets an image with its geometry, of K values a voxel for several classes; a tensor stays on the CPU.
    """
    if geometry.dimension == 2:
        values = values[..., 0, :, :]
    if isinstance(image, torch.Tensor):
        return torch.from_numpy(values)
    if isinstance(image, np.ndarray):
        return values
    several = values.ndim > geometry.dimension
    if values.dtype == np.float16:  # which SimpleITK has not
        values = values.astype(np.float32)
    result = sitk.GetImageFromArray(np.moveaxis(values, 0, -1) if several else values, isVector=several)
    result.CopyInformation(image if isinstance(image, sitk.Image) else image[0])
    return result


def _sizes(spacing: object) -> tuple[float, ...]:
    try:
        unordered = isinstance(spacing, (str, bytes, Set, Mapping))
        sizes = () if unordered else tuple(float(size) for size in spacing)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) not in (2, 3):
        raise ValueError(
            f"spacing is {spacing!r}; an array needs its voxel size in mm, (z, y, x), or (y, x) of a 2D image."
        )
    return sizes


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values as an array, wherever it lies; floating numbers that NumPy has not become float32."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        layout = "nested" if tensor.is_nested else tensor.layout
        kind = "without values" if tensor.is_meta else f"of layout {layout} and {tensor.dtype}"
        raise ValueError(f"The image is a tensor {kind}; expected a dense one of numbers, as to_dense() gives it.")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()


def _of_array(image: np.ndarray | torch.Tensor, sizes: tuple[float, ...]) -> tuple[np.ndarray, Geometry]:
    dimension = len(sizes)
    if isinstance(image, np.ma.MaskedArray):
        raise TypeError("The image is a masked array, whose mask would be lost. Give image.filled(value).")
    if isinstance(image, torch.Tensor):
        array = _numpy(image)
    else:
        array = image
    if array.ndim not in (dimension, dimension + 1):
        raise ValueError(
            f"The image has shape {tuple(array.shape)}, which does not go with the spacing {sizes}: expected "
            f"{dimension} axes, or {dimension + 1} with the channels first."
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"The image holds {array.dtype}; expected numbers.")
    if array.ndim == dimension:
        array = array[None]
    if dimension == 2:
        array = array[:, None]
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return np.ascontiguousarray(array, dtype=np.float32), Geometry.of(sizes, array.shape)


def _of_simpleitk(images: Sequence[sitk.Image], spacing: Sequence[float] | None) -> tuple[np.ndarray, Geometry]:
    if spacing is not None:
        raise ValueError("A SimpleITK image has a spacing of its own; leave spacing out.")
    first = images[0]
    dimension = first.GetDimension()
    if dimension not in (2, 3):
        raise ValueError(f"The image has {dimension} dimensions; expected 2 or 3. Give its channels as a list.")
    check_right_angles(np.reshape(first.GetDirection(), (dimension, dimension)), "The image")
    channels = []
    for image in images:
        same = image.GetSize() == first.GetSize() and np.allclose(image.GetSpacing(), first.GetSpacing(), rtol=1e-3)
        if not same or not np.allclose(image.GetDirection(), first.GetDirection(), atol=1e-3):
            raise DatasetError(
                "The channels differ in size, spacing or direction: "
                f"{image.GetSize()}, {image.GetSpacing()}, {image.GetDirection()} and {first.GetSize()}, "
                f"{first.GetSpacing()}, {first.GetDirection()}. Resample them to one grid."
            )
        shift = max(map(abs, first.TransformPhysicalPointToContinuousIndex(image.GetOrigin())))
        if not shift <= ORIGIN_LIMIT:
            raise DatasetError(
                f"The channels lie {shift:.2f} voxels apart: origins {image.GetOrigin()} and {first.GetOrigin()} mm. "
                "Resample them to one grid, or give one the other's header by CopyInformation if that is wrong."
            )
        if shift > ORIGIN_TOLERANCE:
            log.warning("The channels lie %.2f voxels apart; they are taken voxel by voxel as if they did not.", shift)
        kind = image.GetPixelIDTypeAsString()
        # Asked for the voxels of its label maps, SimpleITK ends the process
        if kind.startswith(("label", "complex")):
            raise ValueError(f"The image holds {kind}; expected numbers.")
        array = sitk.GetArrayViewFromImage(image)
        several = image.GetNumberOfComponentsPerPixel() > 1
        channels.append(np.moveaxis(array, -1, 0) if several else array[None])
    array = np.concatenate(channels, dtype=np.float32, casting="unsafe")
    array = array[:, None] if dimension == 2 else array
    sizes = tuple(abs(float(size)) for size in first.GetSpacing()[::-1])
    return array, Geometry.of(sizes, array.shape, first.GetOrigin(), first.GetDirection())
