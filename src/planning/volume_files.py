"""Volumes to disk by SimpleITK, which says nothing when the disk is full."""

from __future__ import annotations

import math
from pathlib import Path

import SimpleITK as sitk

from src.files import atomic_file
from src.planning.description import DatasetError
from src.planning.nifti import check_every_byte, is_nifti

_GIPL_HEADER_BYTES = 256


def write_volume(volume: sitk.Image, path: Path | str) -> None:
    """Write a volume, compressed where the format can be, whole or not at all.

    A NIfTI file is read again up to its checksum (gzip's, of every byte that was to be written), for SimpleITK takes a
    failing disk for a success; its writers of MetaImage and NRRD report one.

    Args:
        volume: To write.
        path: Its ending decides the format. A .mhd file holds its voxels itself, as a .mha file does: two files cannot
            be moved into place in one step.

    Raises:
        OSError: The disk is full or cannot be written to, or did not keep what was written; names `path`.
    """
    with atomic_file(path) as beside:
        target = beside.with_suffix(".mha") if beside.suffix == ".mhd" else beside
        try:
            sitk.WriteImage(volume, str(target), True)
            target.replace(beside)
            _check(volume, beside)
        except (DatasetError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"{path} could not be written whole ({reason}). Is the disk full or failing?") from error
        finally:
            if target != beside:
                target.unlink(missing_ok=True)


def _check(volume: sitk.Image, path: Path) -> None:
    if is_nifti(path):
        check_every_byte(path)
    elif path.suffix == ".gipl":
        check_gipl_length(path, volume)


def check_gipl_length(path: Path, volume: sitk.Image | sitk.ImageFileReader) -> None:
    """See that a GIPL file holds all its voxels.

    Raises:
        DatasetError: It ends before its last one.
    """
    expected = _GIPL_HEADER_BYTES + voxel_bytes(volume)
    if path.stat().st_size < expected:
        raise DatasetError(f"{path} holds {path.stat().st_size} of {expected} bytes: it is cut off. Copy it again.")


def voxel_bytes(volume: sitk.Image | sitk.ImageFileReader) -> int:
    """Bytes of all voxels in memory; of a reader as the header that it has read states them."""
    is_image = isinstance(volume, sitk.Image)
    components = volume.GetNumberOfComponentsPerPixel() if is_image else volume.GetNumberOfComponents()
    each = sitk.Image([1, 1], volume.GetPixelID()).GetSizeOfPixelComponent()
    return math.prod(volume.GetSize()) * components * each
