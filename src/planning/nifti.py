"""What SimpleITK does not tell about a NIfTI file.

It reads NaN and infinite voxels as 0, and what a truncated file lacks as whatever the memory held, without a word.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from src.planning.description import DatasetError

_CHUNK = 1 << 24  # bytes read at a time
_HEADER_BYTES = 540  # of NIfTI-2; the 348 of NIfTI-1 are less
_FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI datatype codes


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file in one piece."""
    return path.name.endswith((".nii", ".nii.gz"))


def count_nonfinite(path: Path) -> int:
    """Count NaN and infinite voxels of a NIfTI-1 or NIfTI-2 file, and see that the file is whole.

    A file of whole numbers is not read again if its length is right; a compressed one has its length in the last bytes.

    Args:
        path: A .nii or .nii.gz that SimpleITK can read.

    Raises:
        DatasetError: The file ends before its last voxel, or its compressed data are damaged.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            dtype, offset, expected = _read_layout(file.read(_HEADER_BYTES))
            if dtype is None and _has_length(path, offset + expected):
                return 0
            file.seek(offset)
            count = size = 0
            while block := file.read(_CHUNK):
                size += len(block)
                if dtype is not None:
                    values = np.frombuffer(block, dtype=dtype, count=len(block) // dtype.itemsize)
                    count += int(np.count_nonzero(~np.isfinite(values)))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"{path} cannot be read ({error}): it is damaged or cut off. Copy it again."
        raise DatasetError(reason) from error
    if size < expected:
        raise DatasetError(f"{path} holds {size} of {expected} bytes of voxels: it is cut off. Copy it again.")
    return count


def _has_length(path: Path, expected: int) -> bool:
    """Whether the file says it holds so many bytes uncompressed; a gzip file of several members never does."""
    if not path.name.endswith(".gz"):
        return path.stat().st_size >= expected
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read(4))[0] == expected % 2**32


def _read_layout(header: bytes) -> tuple[np.dtype | None, int, int]:
    """The type of the voxels if it is a floating one, where they start, and how many bytes they take."""
    order = "<" if struct.unpack("<i", header[:4])[0] in (348, 540) else ">"
    if struct.unpack(f"{order}i", header[:4])[0] == 540:
        datatype, bits = struct.unpack(f"{order}2h", header[12:16])
        dim = struct.unpack(f"{order}8q", header[16:80])
        (offset,) = struct.unpack(f"{order}q", header[168:176])
    else:
        dim = struct.unpack(f"{order}8h", header[40:56])
        datatype, bits = struct.unpack(f"{order}2h", header[70:74])
        (offset,) = struct.unpack(f"{order}f", header[108:112])
    dtype = np.dtype(order + _FLOAT_TYPES[datatype]) if datatype in _FLOAT_TYPES else None
    return dtype, int(offset), math.prod(dim[1 : dim[0] + 1]) * bits // 8
