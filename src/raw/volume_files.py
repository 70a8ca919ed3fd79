"""Volumes from and to disk by SimpleITK, which says nothing when a file is cut off or the disk is full.

It is silent about NIfTI and GIPL, in reading and in writing. For MetaImage and NRRD that are cut off it raises an
error, but not for compressed ones that are damaged inside.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba.files import atomic_file
from umamba.machine import require_memory
from umamba.raw.compressed import check_compressed
from umamba.raw.description import VOLUME_ENDINGS, DatasetError
from umamba.raw.nifti import check_every_byte, check_length, read_whole_numbers
from umamba.raw.nifti_header import is_nifti, is_nifti_2
from umamba.raw.right_angles import SHEAR, sform_direction
from umamba.raw.text_header import TextHeader

_GIPL_HEADER_BYTES = 256
_PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"  # in the environment: take any sform, see `umamba.raw.right_angles`
_one_at_a_time = threading.Lock()  # the environment is the whole process's, and files are read by several threads


def write_volume(volume: sitk.Image, path: Path | str) -> None:
    """Write a volume, compressed where the format can be, whole or not at all.

    A compressed file is read again up to its checksum, which is of every byte that was to be written, for SimpleITK's
    writer of NIfTI takes a failing disk for a success.

    Args:
        volume: The voxels with their geometry.
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


def _check(volume: sitk.Image | sitk.ImageFileReader, path: Path) -> None:
    if is_nifti(path):
        check_every_byte(path)
    elif path.suffix == ".gipl":
        check_gipl_length(path, volume)
    else:
        check_compressed(path, voxel_bytes(volume))


def open_volume(path: Path) -> sitk.ImageFileReader:
    """Read the header of a volume.

    Raises:
        DatasetError: It has no ending that is known, cannot be read, its axes are not at right angles, or it says what
            SimpleITK passes over, see `TextHeader.check`; or SimpleITK would read another file.
    """
    if not path.name.endswith(VOLUME_ENDINGS):  # by which it is known what is to be checked
        raise DatasetError(f"{path} has an ending that is not known; expected {', '.join(VOLUME_ENDINGS)}. Rename it.")
    direction = None
    try:
        if header := TextHeader.read(path):
            header.check()
        _check_alone(path)
        direction = sform_direction(path)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if direction is None or reader.GetDimension() < 3 or _turned(reader, direction) <= SHEAR:
            return reader
    except (RuntimeError, OSError) as error:
        if direction is None or "orthonormal" not in str(error):
            raise unreadable(path, error) from error
    try:
        return _OfSform(path, direction)
    except RuntimeError as error:
        raise unreadable(path, error) from error


def _check_alone(path: Path) -> None:
    """Refuse NAME.nii.gz beside NAME.nii, whose voxels SimpleITK reads in its place (nifti_findimgname)."""
    if plain := read_in_place_of(path):
        raise DatasetError(
            f"{path}: {plain.name} lies beside it, and SimpleITK would read that file's voxels in place of these. Move "
            "one of the two away."
        )


def read_in_place_of(path: Path) -> Path | None:
    """The uncompressed NIfTI file of the same name, whose voxels SimpleITK reads in place of these, if it is there."""
    plain = path.with_suffix("")
    return plain if path.name.endswith(".nii.gz") and plain.is_file() else None


def _turned(reader: sitk.ImageFileReader, direction: np.ndarray) -> float:
    size = reader.GetDimension()
    found = np.reshape(reader.GetDirection(), (size, size))[:3, :3]
    return float(np.abs(found - direction).max())


class _OfSform(sitk.ImageFileReader):
    """A NIfTI file whose axes SimpleITK refuses for their rounding, or turns the other way; see `raw.right_angles`."""

    def __init__(self, path: Path, direction: np.ndarray) -> None:
        super().__init__()
        self.SetFileName(str(path))
        with _permissive():
            self.ReadImageInformation()
        size = self.GetDimension()
        self.direction = np.eye(size)
        self.direction[:3, :3] = direction

    def GetDirection(self) -> tuple[float, ...]:  # SimpleITK's name
        return tuple(self.direction.ravel().tolist())

    def Execute(self) -> sitk.Image:
        with _permissive():
            image = super().Execute()
        image.SetDirection(self.GetDirection())
        return image


@contextmanager
def _permissive() -> Iterator[None]:
    with _one_at_a_time:
        before, warns = os.environ.get(_PERMISSIVE), sitk.ProcessObject.GetGlobalWarningDisplay()
        os.environ[_PERMISSIVE] = "1"
        sitk.ProcessObject.SetGlobalWarningDisplay(False)  # of the axes, three lines a file
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(warns)
            os.environ.pop(_PERMISSIVE)
            if before is not None:
                os.environ[_PERMISSIVE] = before


def read_voxels(reader: sitk.ImageFileReader) -> sitk.Image:
    """Read the volume whose header was read, if it is whole and fits into memory.

    A compressed file is decompressed a second time, in a thread, to the checksum that SimpleITK does not look at.

    Raises:
        DatasetError: It is cut off, damaged, or larger than the memory that is free.
    """
    path = Path(reader.GetFileName())
    _require_memory(reader)
    with ThreadPoolExecutor(1) as thread:
        check = thread.submit(_check, reader, path)
        try:
            image = reader.Execute()
        except RuntimeError as error:
            check.result()  # its reason is the better one
            raise unreadable(path, error) from error
        check.result()
    return image


def _require_memory(reader: sitk.ImageFileReader) -> None:
    path = Path(reader.GetFileName())
    size = " x ".join(map(str, reader.GetSize()))
    try:
        # Twice: SimpleITK's image and the array that is copied from it.
        require_memory(
            2 * voxel_bytes(reader),
            f"{path} declares {size} voxels (its file has {path.stat().st_size / 2**20:.1f} MiB), which do not fit "
            "into memory. Correct its header if that is wrong; else crop it, or work where there is more",
        )
    except MemoryError as error:
        raise DatasetError(str(error)) from error


def read_array(reader: sitk.ImageFileReader) -> np.ndarray:
    """The voxels ([z,] y, x) of the volume whose header was read, as `read_voxels` reads them (else DatasetError).

    Whole numbers in a compressed NIfTI file are inflated once, where SimpleITK and the checksum take two threads.
    """
    path = Path(reader.GetFileName())
    if is_nifti(path):
        _require_memory(reader)
        voxels = read_whole_numbers(path, reader.GetSize()[::-1])
        if voxels is not None:
            return voxels
    return sitk.GetArrayFromImage(read_voxels(reader))


def check_volume_whole(path: Path) -> None:
    """See that a volume holds all the voxels that its header declares; read it only if its length does not tell.

    Damages inside of a compressed file of the right length are found when it is read, see `read_voxels`.

    Raises:
        DatasetError: It is cut off, damaged or no volume.
    """
    if is_nifti(path):
        check_length(path)
        return
    reader = open_volume(path)
    if path.suffix == ".gipl":
        check_gipl_length(path, reader)
    elif (header := TextHeader.read(path)) is not None:
        needed = header.file_bytes(voxel_bytes(reader))
        if needed is None or path.stat().st_size < needed:
            read_voxels(reader)


def unreadable(path: Path, error: RuntimeError | OSError) -> DatasetError:
    """SimpleITK's complaint about a file, and what to do."""
    lines = str(error).strip().splitlines()
    reason = lines[-1]
    wrong = next((line for line in lines if "trouble parsing" in line), None)  # a line of a NRRD's header
    if "has a direction vector" in reason:
        hint = (
            "Beside `space directions` NRRD has no spacings, axis mins, axis maxs or units. If the directions are "
            "right, delete those lines of its header; `space units` names the unit, mm."
        )
    elif wrong is not None:
        hint = f"Correct its header, or write the file again: {wrong.partition(': ')[2]}."
    elif is_nifti(path) and is_nifti_2(path):
        hint = "It is of NIfTI-2, which SimpleITK does not read: write it as NIfTI-1, for instance with nibabel."
    else:
        hint = "Is the file damaged or cut off? Copy it again."
    return DatasetError(f"{path} cannot be read ({reason}). {hint}")


def check_gipl_length(path: Path, volume: sitk.Image | sitk.ImageFileReader) -> None:
    """See that a GIPL file holds all its voxels (else DatasetError)."""
    expected = _GIPL_HEADER_BYTES + voxel_bytes(volume)
    if path.stat().st_size < expected:
        raise DatasetError(f"{path} holds {path.stat().st_size} of {expected} bytes: it is cut off. Copy it again.")


def voxel_bytes(volume: sitk.Image | sitk.ImageFileReader) -> int:
    """Bytes that all voxels take in memory; of a reader that has read the header alone, as that states them."""
    if isinstance(volume, sitk.Image):
        components = volume.GetNumberOfComponentsPerPixel()
    else:
        components = volume.GetNumberOfComponents()
    each = sitk.Image([1, 1], volume.GetPixelID()).GetSizeOfPixelComponent()
    return math.prod(volume.GetSize()) * components * each
