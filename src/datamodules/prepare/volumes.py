"""Volumes of other layouts into nnU-Net's: copied where that will do, labels renumbered where it will not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from src.datamodules.prepare.raw_layout import atomic_file
from src.planning.raw import DatasetError

TOLERANCE = 1e-3  # mm (direction: cosine): headers written by different tools differ by their rounding


def copy_file(source: Path, target: Path) -> None:
    """Copy a file byte by byte unless `target` is there already."""
    if not target.exists():
        with atomic_file(target) as beside:
            shutil.copyfile(source, beside)


def read_volume(path: Path) -> sitk.Image:
    """Read a volume.

    Raises:
        DatasetError: the file is truncated or no image.
    """
    try:
        return sitk.ReadImage(path)
    except RuntimeError as error:
        raise DatasetError(f"{path} cannot be read ({str(error).strip().splitlines()[-1]}): fetch it again") from error


def split_channels(source: Path, folder: Path, name: str, num_channels: int) -> None:
    """Write the channels of a 4D volume as `NAME_0000.nii.gz`, ...; a 3D volume is copied.

    Raises:
        DatasetError: the volume has another number of channels.
    """
    targets = [folder / f"{name}_{channel:04d}.nii.gz" for channel in range(num_channels)]
    if all(target.exists() for target in targets):
        return
    if num_channels == 1:
        copy_file(source, targets[0])
        return
    volume = read_volume(source)
    found = volume.GetSize()[3] if volume.GetDimension() == 4 else 1
    if found != num_channels:
        raise DatasetError(f"{source}: expected {num_channels} channels as dataset.json says, found {found}")
    for channel, target in enumerate(targets):
        with atomic_file(target) as beside:
            sitk.WriteImage(volume[:, :, :, channel], beside, useCompression=True)


def renumber_labels(source: Path, target: Path, numbers: Mapping[int, int], *, image: Path | None = None) -> None:
    """Write a label map with other numbers, as uint8.

    Args:
        source: label map.
        target: file to write, unless it is there.
        numbers: new number of every number that may occur; 0 stays 0.
        image: the image it belongs to; its shape and geometry are compared.

    Raises:
        DatasetError: a number without a new one, or another geometry than the image's.
    """
    if target.exists():
        return
    volume = read_volume(source)
    if image is not None:
        check_same_grid(volume, source, image)
    labels = sitk.GetArrayViewFromImage(volume)
    known = {0: 0, **numbers}
    strange = sorted(set(np.unique(labels).tolist()) - set(known))
    if strange:
        raise DatasetError(f"{source}: expected the labels {sorted(known)}, found also {strange[:5]}")
    table = np.zeros(max(known) + 1, np.uint8)
    table[list(known)] = list(known.values())
    renumbered = sitk.GetImageFromArray(table[labels.astype(np.int64)])
    renumbered.CopyInformation(volume)
    with atomic_file(target) as beside:
        sitk.WriteImage(renumbered, beside, useCompression=True)


def check_same_grid(label: sitk.Image, label_path: Path, image_path: Path) -> None:
    """Compare a label map's grid with its image's header, within TOLERANCE.

    Raises:
        DatasetError: they differ.
    """
    header = sitk.ImageFileReader()
    header.SetFileName(str(image_path))
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise DatasetError(f"{image_path} cannot be read: fetch it again") from error
    for what in ("Size", "Spacing", "Origin", "Direction"):
        expected, found = getattr(header, f"Get{what}")(), getattr(label, f"Get{what}")()
        if len(expected) != len(found) or not np.allclose(expected, found, rtol=0, atol=TOLERANCE):
            raise DatasetError(f"{label_path}: {what.lower()} {found}, but the image {image_path} has {expected}")
