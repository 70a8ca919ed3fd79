"""Image and label files to arrays and back: SimpleITK for volumes, scikit-image and tifffile for pictures.

Arrays are channel first, (C, Z, Y, X); a 2D image has Z = 1. Spacing is in the array's axis order, in mm. A picture
without physical size gets spacing (999, 1, 1), as nnU-Net's readers give it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import SimpleITK as sitk

from umamba.files import load_json, write_json
from umamba.raw.description import PICTURE_ENDINGS, DatasetError
from umamba.raw.file_identity import spacing_files
from umamba.raw.nifti import count_nonfinite
from umamba.raw.nifti_header import is_nifti
from umamba.raw.pictures import check_colours, has_palette, is_tiff, palette_numbers, read_picture, write_picture
from umamba.raw.right_angles import check_right_angles
from umamba.raw.volume_files import open_volume, read_array, write_volume

FLAT_SPACING = 999.0  # nnU-Net's spacing across a 2D image: so large that z always becomes the first axis


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where an image lies in space, as plain data.

    Attributes:
        spacing: Voxel size in mm, (z, y, x); absolute values.
        origin: Of the file, in SimpleITK's order (x, y[, z]).
        direction: Direction cosines of the file, row by row, in SimpleITK's order.
        shape: (Z, Y, X).
        dimension: 2 or 3, the dimension of the file.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    shape: tuple[int, int, int]
    dimension: int

    @classmethod
    def of(
        cls,
        spacing: Sequence[float],
        shape: Sequence[int],
        origin: Sequence[float] | None = None,
        direction: Sequence[float] | None = None,
    ) -> Self:
        """Of an array (..., Z, Y, X) whose file has as many axes as spacings, in mm; by itself at the origin."""
        dimension, sizes = len(spacing), tuple(map(float, spacing))
        depth, height, width = shape[-3:]
        return cls(
            spacing=sizes if dimension == 3 else (FLAT_SPACING * max(sizes), *sizes),
            origin=tuple(origin or (0.0,) * dimension),
            direction=tuple(direction or np.eye(dimension).ravel().tolist()),
            shape=(depth, height, width),
            dimension=dimension,
        )


def is_picture(path: Path) -> bool:
    """Whether the file is a picture (PNG, BMP, TIFF), which has no geometry of its own."""
    return path.name.lower().endswith(PICTURE_ENDINGS)


def read_images(paths: Sequence[Path | str]) -> tuple[np.ndarray, Geometry]:
    """Read the channels of one case.

    Args:
        paths: One file per channel, or one picture with all of them. Alpha channels are dropped.

    Returns:
        The image (C, Z, Y, X) as float32, and the geometry of the first file.

    Raises:
        FileNotFoundError: A file does not exist.
        DatasetError: A file cannot be read, has no 2D or 3D image, or the channels differ in shape.
    """
    arrays, geometries = zip(*(_read(Path(path)) for path in paths), strict=True)
    for picture, array in zip(map(Path, paths), arrays, strict=True):
        if is_tiff(picture) and len(array) == 1 and has_palette(picture):
            raise DatasetError(
                f"{picture} is a TIFF with a palette: it holds numbers of colours, which are no intensities. Write it "
                "as a grey or an RGB picture."
            )
    for path, geometry in zip(paths, geometries, strict=True):
        if geometry.shape != geometries[0].shape:
            raise DatasetError(
                f"{path} has shape {geometry.shape} (z, y, x), {paths[0]} has {geometries[0].shape}: all channels of "
                "a case must have one shape. Resample them to one grid."
            )
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0], dtype=np.float32), geometries[0]
    return np.concatenate(arrays, dtype=np.float32, casting="unsafe"), geometries[0]


def read_label(path: Path | str) -> tuple[np.ndarray, Geometry]:
    """Read a label map.

    Args:
        path: A volume or a picture in one of the formats of `read_images`.

    Returns:
        The labels (Z, Y, X) as int16 (int32 if a value needs it), and the geometry of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        DatasetError: The file cannot be read, has several channels, or values that are no whole numbers or too large.
    """
    path = Path(path)
    array, geometry = _read(path)
    _check_palette(path, array)
    if array.shape[0] != 1 and not (array == array[:1]).all():
        raise DatasetError(
            f"{path} is a colour picture of {array.shape[0]} channels; a label map has one channel that holds the "
            "class number of each pixel. Convert it."
        )
    array = array[0]
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DatasetError(
                f"{path} holds NaN or infinite values; a label map holds whole numbers. Correct the file."
            )
        rounded = np.rint(array)
        # Some data sets store labels as float32 with round-off; 1e-3 is far from any real half-way label.
        if np.abs(array - rounded).max(initial=0.0) > 1e-3:
            worst = array.flat[int(np.abs(array - rounded).argmax())]
            raise DatasetError(
                f"{path} holds values that are no whole numbers (such as {worst:.6g}); was it resampled as an image? "
                "Make it again with nearest-neighbour interpolation."
            )
        if is_nifti(path) and count_nonfinite(path):  # SimpleITK reads them as 0
            raise DatasetError(
                f"{path} holds NaN or infinite values; a label map holds whole numbers. Correct the file."
            )
        array = rounded
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < np.iinfo(np.int32).min or high > np.iinfo(np.int32).max:
        raise DatasetError(
            f"{path} holds the values {low} to {high}; a label map holds class or instance numbers of at most 31 bits. "
            "Correct the file."
        )
    fits = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    return array.astype(np.int16 if fits else np.int32), geometry


def _check_palette(path: Path, array: np.ndarray) -> None:
    """A label map with a palette has two numbers a pixel, that of the colour and its grey; they must be one."""
    numbers = palette_numbers(path) if is_picture(path) else None
    if numbers is not None and not (array == numbers).all():
        raise DatasetError(
            f"{path} is a picture with a palette, whose colours are not the numbers of the classes. Write it without "
            "one: as a grey picture that holds the class number of each pixel."
        )


def read_geometry(path: Path | str) -> Geometry:
    """The geometry of one file; of a volume only the header is read."""
    path = Path(path)
    if is_picture(path) or not path.is_file():
        return _read(path)[1]
    return _volume_geometry(open_volume(path), path)


def write_label(label: np.ndarray, path: Path | str, geometry: Geometry) -> None:
    """Write a label map with the geometry of the image it belongs to.

    Args:
        label: (Z, Y, X), whole numbers >= 0; 2D images have Z = 1. Written as uint8 if all values fit, else uint16.
        path: Target; its ending decides the format. Written beside the target and then moved into place. A 3D TIFF
            gets a NAME.json with its spacing, as nnU-Net's have.
        geometry: As returned by `read_images`.

    Raises:
        ValueError: The label has another shape than the geometry, or values below 0 or above 65535.
        OSError: The disk is full or cannot be written to; names `path`, which is not there or as it was.
    """
    path = Path(path)
    if tuple(label.shape) != tuple(geometry.shape):
        raise ValueError(
            f"The label map has shape {label.shape}, its image {geometry.shape} (z, y, x): cannot write {path}."
        )
    if label.min(initial=0) < 0 or label.max(initial=0) > np.iinfo(np.uint16).max:
        raise ValueError(
            f"The label map holds the values {label.min()} to {label.max()}, a file takes 0 to "
            f"{np.iinfo(np.uint16).max}: cannot write {path}."
        )
    dtype = np.uint8 if label.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    array = np.ascontiguousarray(label, dtype=dtype)
    if is_picture(path):
        if geometry.dimension == 3:
            _write_stack(array, path, geometry.spacing)
        else:
            write_picture(array[0], path)
        return
    image = sitk.GetImageFromArray(array[0] if geometry.dimension == 2 else array)
    image.SetSpacing([float(s) for s in geometry.spacing[::-1][: geometry.dimension]])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    write_volume(image, path)


def _write_stack(array: np.ndarray, path: Path, spacing: tuple[float, ...]) -> None:
    """Write a 3D TIFF and, before it, the file with its spacing, so that a TIFF that is there can be read."""
    beside = path.with_suffix(".json")
    write_json({"spacing": list(spacing)}, beside)
    try:
        write_picture(array, path)
    except OSError:
        if not path.exists():
            beside.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    """One file as (C, Z, Y, X) in its own dtype."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    return _read_picture(path) if is_picture(path) else _read_volume(path)


def _read_picture(path: Path) -> tuple[np.ndarray, Geometry]:
    array = read_picture(path)
    spacing: tuple[float, ...] = (1.0, 1.0)
    if array.ndim == 3 and array.shape[-1] in (2, 3, 4) and is_tiff(path):
        check_colours(path)
    if array.ndim == 2:
        array = array[None, None]
    elif array.ndim == 3 and array.shape[-1] in (3, 4):
        array = np.moveaxis(array[..., :3], -1, 0)[:, None]
    elif array.ndim == 3 and array.shape[-1] == 2:  # grey with alpha
        array = np.moveaxis(array[..., :1], -1, 0)[:, None]
    elif array.ndim == 3 and is_tiff(path):
        array, spacing = array[None], _stack_spacing(path)
    else:
        stack = ", or a grey stack (z, y, x)" if is_tiff(path) else ""
        raise DatasetError(
            f"{path} has an array of shape {array.shape}; expected a picture (y, x), (y, x, 3) or (y, x, 4){stack}. "
            "Write each channel of a stack, or each picture, into a file of its own."
        )
    return array, Geometry.of(spacing, array.shape)


def _stack_spacing(path: Path) -> tuple[float, ...]:
    """Spacing of a 3D TIFF from the NAME.json beside it, which nnU-Net asks for too."""
    candidates = spacing_files(path)
    for file in candidates:
        if file.is_file():
            try:
                spacing = tuple(abs(float(value)) for value in load_json(file)["spacing"])
            except (ValueError, TypeError, KeyError):
                spacing = ()
            if len(spacing) == 3 and all(math.isfinite(value) and value > 0 for value in spacing):
                return spacing
            raise DatasetError(f'{file} must hold {{"spacing": [z, y, x]}} in mm, numbers > 0.')
    raise DatasetError(
        f"{path} is a 3D TIFF, which has no voxel size of its own. Put {candidates[-1].name} beside it with "
        '{"spacing": [z, y, x]} in mm, or convert the set to .nii.gz.'
    )


def _read_volume(path: Path) -> tuple[np.ndarray, Geometry]:
    reader = open_volume(path)
    geometry = _volume_geometry(reader, path)  # before any voxel is read
    return read_array(reader).reshape(1, *geometry.shape), geometry


def _volume_geometry(image: sitk.ImageFileReader, path: Path) -> Geometry:
    dimension, components = image.GetDimension(), image.GetNumberOfComponents()
    if dimension not in (2, 3) or components != 1:
        raise DatasetError(
            f"{path} has {dimension} dimensions of size {tuple(image.GetSize())} and {components} values per voxel; "
            "expected one 2D or 3D image of one channel. Split a 4D file into one file per channel: NAME_0000, "
            "NAME_0001, ..."
        )
    steps = image.GetSpacing()
    # Of a negative spacing, which MetaImage and NRRD may have, ITK's images have the direction turned round.
    direction = np.reshape(image.GetDirection(), (dimension, dimension)) * np.where(np.less(steps, 0), -1, 1)
    check_right_angles(direction, path)
    sizes, shape = [abs(step) for step in steps[::-1]], (1, *image.GetSize()[::-1])
    return Geometry.of(sizes, shape, image.GetOrigin(), direction.ravel().tolist())
