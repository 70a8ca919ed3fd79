"""What SimpleITK does not tell about a NIfTI file: it reads NaN and infinite voxels as 0, without a word."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

_CHUNK = 1 << 24  # bytes read at a time
_FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI datatype codes


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file in one piece."""
    return path.name.endswith((".nii", ".nii.gz"))


def count_nonfinite(path: Path) -> int:
    """Count NaN and infinite voxels of a NIfTI-1 or NIfTI-2 file; integer files are not read beyond their header.

    Args:
        path: A .nii or .nii.gz that SimpleITK can read.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        header = file.read(540)
        order = "<" if struct.unpack("<i", header[:4])[0] in (348, 540) else ">"
        if struct.unpack(f"{order}i", header[:4])[0] == 540:
            (datatype,), (offset,) = (
                struct.unpack(f"{order}h", header[12:14]),
                struct.unpack(f"{order}q", header[168:176]),
            )
        else:
            (datatype,), (offset,) = (
                struct.unpack(f"{order}h", header[70:72]),
                struct.unpack(f"{order}f", header[108:112]),
            )
        if datatype not in _FLOAT_TYPES:
            return 0
        dtype = np.dtype(order + _FLOAT_TYPES[datatype])
        file.seek(int(offset))
        count = 0
        while block := file.read(_CHUNK):
            values = np.frombuffer(block, dtype=dtype, count=len(block) // dtype.itemsize)
            count += int(np.count_nonzero(~np.isfinite(values)))
        return count
