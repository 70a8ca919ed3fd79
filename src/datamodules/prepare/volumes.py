"""Volumes of other layouts into nnU-Net's: copied where that will do, labels renumbered where it will not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba.files import atomic_file
from umamba.raw.checks import check_case, raise_errors
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.volume_files import open_volume, read_voxels, write_volume


def copy_file(source: Path, target: Path) -> None:
    """Copy a file byte by byte; `target` appears once all of it is there."""
    with atomic_file(target) as beside:
        shutil.copyfile(source, beside)


def read_volume(path: Path) -> sitk.Image:
    """Read a NIfTI volume.

    Raises:
        DatasetError: the file is truncated, no image, or does not fit into memory.
    """
    return read_voxels(open_volume(path))


def split_channels(source: Path, targets: Sequence[Path]) -> None:
    """Write the channels of a 4D volume to one file each; a 3D volume is copied (else DatasetError)."""
    if len(targets) == 1:
        copy_file(source, targets[0])
        return
    volume = read_volume(source)
    found = volume.GetSize()[3] if volume.GetDimension() == 4 else 1
    if found != len(targets):
        raise DatasetError(f"{source}: expected {len(targets)} channels as dataset.json says, found {found}")
    for channel, target in enumerate(targets):
        write_volume(volume[:, :, :, channel], target)


def renumber_labels(source: Path, target: Path, numbers: Mapping[int, int]) -> None:
    """Write a label map with other numbers, as uint8.

    Args:
        source: label map.
        target: file to write.
        numbers: new number of every number that may occur; 0 stays 0.

    Raises:
        DatasetError: a number without a new one, or a file that cannot be read.
    """
    volume = read_volume(source)
    labels = sitk.GetArrayViewFromImage(volume)
    known = {0: 0, **numbers}
    strange = sorted(set(np.unique(labels).tolist()) - set(known))
    if strange:
        raise DatasetError(f"{source}: expected the labels {sorted(known)}, found also {strange[:5]}")
    table = np.zeros(max(known) + 1, np.uint8)
    table[list(known)] = list(known.values())
    renumbered = sitk.GetImageFromArray(table[labels.astype(np.int64)])
    renumbered.CopyInformation(volume)
    write_volume(renumbered, target)


def describe(channel_names: Sequence[str], labels: Sequence[str]) -> DatasetDescription:
    """What the cases of a set of NIfTI volumes are checked against; `labels` are the names of classes 1, 2, ..."""
    return DatasetDescription(
        name="",
        channel_names=tuple(channel_names),
        labels={"background": 0} | {name: value for value, name in enumerate(labels, start=1)},
        file_ending=".nii.gz",
        num_training=0,
    )


def case_files(folder: Path, split: str, name: str, description: DatasetDescription) -> RawCase:
    """The files of a case in the raw layout, there or not."""
    channels = range(len(description.channel_names))
    return RawCase(
        identifier=name,
        images=tuple(folder / f"images{split}" / f"{name}_{channel:04d}.nii.gz" for channel in channels),
        label=folder / f"labels{split}" / f"{name}.nii.gz",
    )


def check_written(case: RawCase, folder: Path, description: DatasetDescription) -> None:
    """Read a case that was written and check it as before a training; a case with faults is removed again.

    Raises:
        DatasetError: truncated files, NaN, labels out of range, another grid than its image's, ...
    """
    labelled = case.label is not None and case.label.exists()
    try:
        raise_errors(check_case(replace(case, label=case.label if labelled else None), description))
    except DatasetError as error:
        for path in (*case.images, case.label):
            if path is not None:
                path.unlink(missing_ok=True)
        raise DatasetError(str(error).replace(f"{folder}{os.sep}", "")) from None
