"""Labels whose grid is not their image's, put right on request; the original file is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba.files import atomic_file
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetError
from umamba.raw.readers import is_picture
from umamba.raw.volume_files import open_volume, read_voxels, write_volume

MIN_KEPT = 0.5  # share of the foreground's volume that resampling must keep


def repair_label(case: RawCase, how: str) -> Path:
    """Put a label on its image's grid and keep the original in `<labels folder>_original`.

    Args:
        case: with a label.
        how: "resample_label" trusts the label's header and resamples by nearest neighbour; "copy_header" trusts its
            voxels and gives them the image's header.

    Raises:
        DatasetError: a file that is cut off; pictures, which have no geometry; another number of voxels (copy_header);
            grids that hardly overlap (resample_label).
    """
    path = case.label
    if path is None or is_picture(path):
        raise DatasetError(f"{path}: a picture has no position to be resampled by; make the label anew.")
    image, label = (read_voxels(open_volume(file)) for file in (case.images[0], path))
    if how == "copy_header":
        if image.GetSize() != label.GetSize():
            raise DatasetError(
                f"{path} has size {label.GetSize()}, its image {image.GetSize()} (x, y, z): copying the header cannot "
                "help. Try geometry=resample_label."
            )
        repaired = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(label))
        repaired.CopyInformation(image)
    else:
        repaired = sitk.Resample(label, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, label.GetPixelID())
        before, after = (_foreground_volume(volume) for volume in (label, repaired))
        if after < MIN_KEPT * before:
            raise DatasetError(
                f"{path}: only {after:.0f} of {before:.0f} mm^3 of foreground lie within the image's grid; the header "
                "cannot be right. Try geometry=copy_header, or correct it by hand."
            )
    original = path.parent.with_name(path.parent.name + "_original") / path.name
    if not original.exists():
        with atomic_file(original) as beside:
            shutil.copy2(path, beside)
    write_volume(repaired, path)
    return original


def _foreground_volume(label: sitk.Image) -> float:
    return float(np.count_nonzero(sitk.GetArrayViewFromImage(label)) * np.prod(label.GetSpacing()))
