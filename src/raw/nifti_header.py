"""The header of a NIfTI file, and what in it other programs read otherwise than SimpleITK."""

from __future__ import annotations

import math
import struct
from io import BufferedIOBase
from pathlib import Path
from typing import Literal

import numpy as np

from umamba.raw.inflate import DAMAGES, open_gzip

HEADER_DAMAGES: tuple[type[Exception], ...] = (*DAMAGES, struct.error, ValueError, OverflowError)
FIRST_VOXEL = 352  # at least, after the header
_HEADER_BYTES = 540  # of NIfTI-2; the 348 of NIfTI-1 are less
_NO_SLOPE = 2.3e-16  # SimpleITK takes a scale up to that for none
# The fields of both headers that are read, as nifti1.h and nifti2.h have them
_NAMES = (
    "dim", "datatype", "bitpix", "pixdim", "vox_offset", "slope", "inter", "qform_code", "sform_code", "quatern",
    "sform", "magic", "units", "qoffset",
)  # fmt: skip
_NIFTI_1 = np.dtype({
    "names": _NAMES,
    "formats": ["8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "i2", "i2", "3f4", "(3,4)f4", "S4", "u1", "3f4"],
    "offsets": [40, 70, 72, 76, 108, 112, 116, 252, 254, 256, 280, 344, 123, 268], "itemsize": 348,
})  # fmt: skip
_NIFTI_2 = np.dtype({
    "names": _NAMES,
    "formats": ["8i8", "i2", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "3f8", "(3,4)f8", "S4", "i4", "3f8"],
    "offsets": [16, 12, 14, 104, 168, 176, 184, 344, 348, 352, 400, 4, 500, 376], "itemsize": 540,
})  # fmt: skip


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file in one piece."""
    return path.name.endswith((".nii", ".nii.gz"))


def is_nifti_2(path: Path) -> bool:
    """Whether the header of a file says that it is of NIfTI-2; False where it cannot be read."""
    try:
        return read_header(path)["magic"] in (b"n+2", b"ni2")
    except HEADER_DAMAGES:
        return False


def read_header(path: Path) -> np.void:
    """The fields of a file's header by their names; raises `HEADER_DAMAGES` where there is none."""
    with open_nifti(path) as file:
        block = file.read(_HEADER_BYTES)
    order: Literal["<", ">"] = "<" if struct.unpack("<i", block[:4])[0] in (348, 540) else ">"
    is_2 = struct.unpack(f"{order}i", block[:4])[0] == 540
    return np.frombuffer(block, (_NIFTI_2 if is_2 else _NIFTI_1).newbyteorder(order), 1)[0]


def open_nifti(path: Path) -> BufferedIOBase:
    """Open a file to be read, inflated."""
    return open_gzip(path) if path.name.endswith(".gz") else open(path, "rb")


def fault_of(header: np.void) -> str | None:
    """What in a header other programs read otherwise than SimpleITK."""
    if header["magic"] not in (b"n+1", b"ni1", b"n+2"):
        return (
            "is no NIfTI file but one of ANALYZE 7.5, which does not say where its axes point. Convert it by a program "
            "that knows how it was made, for instance SPM."
        )
    if header["vox_offset"] < FIRST_VOXEL:
        return (
            f"has its voxels begin at byte {header['vox_offset']:g} (vox_offset), within its header; expected at least "
            f"{FIRST_VOXEL}. Correct the header, or write the file again, for instance with nibabel."
        )
    slope, shift = float(header["slope"]), float(header["inter"])
    unscaled = (slope == 0 or math.isnan(slope)) and (shift == 0 or math.isnan(shift))
    scaled = math.isfinite(slope) and abs(slope) > _NO_SLOPE and math.isfinite(shift)
    if not unscaled and not scaled:
        return (
            f"has scl_slope {slope:g} and scl_inter {shift:g}, by which programs read different values; expected a "
            "finite scale with a finite shift, or neither. Write 1 and 0 if the values are meant as they are stored."
        )
    return None


def sizes_of_voxel(path: Path) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """The size of a voxel as the header states it twice: by pixdim and by the lengths of sform's axes, mm (x, y[, z]).

    Returns:
        None for the second if there is no sform.
    """
    header = read_header(path)
    pixdim = voxel_size(header)
    if header["sform_code"] <= 0:
        return pixdim, None
    lengths = np.linalg.norm(header["sform"][:, :3].astype(float), axis=0)[: len(pixdim)]
    return pixdim, tuple(lengths.tolist())


def unit_of(path: Path) -> str | None:
    """The unit in which a header states sizes and places, if it is not mm or none."""
    return {1: "metres", 3: "micrometres"}.get(int(read_header(path)["units"]) & 7)


def voxel_size(header: np.void) -> tuple[float, ...]:
    """(x, y[, z]) as pixdim has it, with its signs."""
    return tuple(header["pixdim"][1 : min(int(header["dim"][0]), 3) + 1].tolist())
