"""What SimpleITK does not tell about a NIfTI file.

It reads NaN and infinite voxels as 0, a voxel size of 0 or NaN as 1 mm, and what a truncated or damaged file lacks as
whatever the memory held, without a word. The voxels of an uncompressed file have no checksum; those of a .gz have one,
which SimpleITK does not look at.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from umamba.raw.description import DatasetError
from umamba.raw.inflate import DAMAGES
from umamba.raw.nifti_header import HEADER_DAMAGES, fault_of, open_nifti, read_header, voxel_size

_CHUNK = 1 << 24  # bytes read at a time
_TRAILING = 1 << 24  # bytes after the last voxel that are read; a file that goes on for ever is not followed
_FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI datatype codes
_WHOLE_TYPES = {2: "u1", 4: "i2", 8: "i4", 256: "i1", 512: "u2", 768: "u4"}
_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}  # whatever bitpix says


def count_nonfinite(path: Path) -> int:
    """Count the NaN and infinite voxels of a NIfTI-1 or NIfTI-2 file; only floating types can have any.

    Of other types only the length of the file is checked. The checksum of a compressed file is not compared again:
    `umamba.raw.volume_files.read_voxels` did so when it read the file.

    Raises:
        DatasetError: The file ends before its last voxel, or its compressed data are damaged.
    """
    dtype, offset, expected = _layout_of(path)
    if dtype is None and _has_length(path, offset + expected):
        return 0
    return _read_through(path, dtype, offset, expected)


def check_length(path: Path) -> None:
    """See that a NIfTI file holds all its voxels, which are read only where its length does not tell.

    A compressed file says its length in its last bytes: one that is damaged before them passes here, and is found by
    `check_every_byte` when its voxels are read.

    Raises:
        DatasetError: The file ends before its last voxel, has no voxel size, or it is no NIfTI file.
    """
    _, offset, expected = _layout_of(path)
    if not _has_length(path, offset + expected):
        _read_through(path, None, offset, expected)


def check_every_byte(path: Path) -> None:
    """Read a compressed NIfTI file to its checksum; see the length of another one, which has none.

    Raises:
        DatasetError: It is cut off or damaged, or has no voxel size.
    """
    _, offset, expected = _layout_of(path)
    if path.name.endswith(".gz"):
        _read_through(path, None, offset, expected)
    else:
        check_length(path)


def read_whole_numbers(path: Path, shape: Sequence[int]) -> np.ndarray | None:
    """The voxels of a compressed file in one pass to its checksum, if they are whole numbers that are stored as such.

    Args:
        path: A .nii or .nii.gz whose header SimpleITK can read.
        shape: As SimpleITK read it, ([z,] y, x).

    Returns:
        Voxels in the file's type; None if SimpleITK is to read them: of an uncompressed file, of floating types or with
        a scale in the header.

    Raises:
        DatasetError: The file is cut off or damaged, or has no voxel size.
    """
    _, offset, expected = _layout_of(path)
    dtype = _stored_as_is(path) if path.name.endswith(".gz") else None
    if dtype is None or math.prod(shape) * dtype.itemsize != expected:
        return None
    voxels, done = np.empty(math.prod(shape), dtype.newbyteorder("=")), 0
    for block in _blocks(path, offset, expected):
        part = np.frombuffer(block, dtype, min(len(block) // dtype.itemsize, len(voxels) - done))
        voxels[done : done + len(part)] = part
        done += len(part)
    return voxels.reshape(shape)


def _stored_as_is(path: Path) -> np.dtype | None:
    """The type of voxels that are whole numbers without a scale, of NIfTI-1 in one file."""
    header = read_header(path)
    code = int(header["datatype"])
    if header["magic"] != b"n+1" or code not in _WHOLE_TYPES or header["slope"] not in (0, 1) or header["inter"] != 0:
        return None
    return np.dtype(_WHOLE_TYPES[code]).newbyteorder(header.dtype["datatype"].byteorder)


def _layout_of(path: Path) -> tuple[np.dtype | None, int, int]:
    """The type of the voxels if it is a floating one, else None; where they start, and how many bytes they take."""
    try:
        header = read_header(path)
        dim, code = header["dim"].tolist(), int(header["datatype"])
        size = math.prod(dim[1 : dim[0] + 1]) * _BYTES.get(code, int(header["bitpix"]) // 8)
        dtype = np.dtype(header.dtype["datatype"].byteorder + _FLOAT_TYPES[code]) if code in _FLOAT_TYPES else None
        layout, sizes = (dtype, int(header["vox_offset"]), size), voxel_size(header)
    except HEADER_DAMAGES as error:
        raise _damaged(path, error) from error
    if fault := fault_of(header):
        raise DatasetError(f"{path} {fault}")
    # What a negative one may mean is said by umamba.raw.doubts.
    if not all(math.isfinite(size) and size != 0 for size in sizes):
        raise DatasetError(
            f"{path} has the voxel size {sizes} (pixdim of its header, x, y, z); expected mm, numbers > 0. Write "
            "the true size into its header: it would be read as 1 mm."
        )
    return layout


def _read_through(path: Path, dtype: np.dtype | None, offset: int, expected: int) -> int:
    """Read all voxels; return how many are not finite, if they are of a floating type."""
    count = 0
    for block in _blocks(path, offset, expected):
        if dtype is not None:
            values = np.frombuffer(block, dtype=dtype, count=len(block) // dtype.itemsize)
            count += int(np.count_nonzero(~np.isfinite(values)))
    return count


def _blocks(path: Path, offset: int, expected: int) -> Iterator[bytes]:
    """What the file holds from its first voxel on, to the end and its checksum; whole values but for the last block."""
    size = 0
    try:
        with open_nifti(path) as file:
            file.seek(offset)
            while (block := file.read(_CHUNK)) and size <= expected + _TRAILING:
                size += len(block)
                yield block
    except DAMAGES as error:
        raise _damaged(path, error) from error
    if size < expected:
        raise DatasetError(f"{path} holds {size} of {expected} bytes of voxels: it is cut off. Copy it again.")


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path} cannot be read ({error}): it is damaged or cut off. Copy it again.")


def _has_length(path: Path, expected: int) -> bool:
    """Whether the file says it holds so many bytes uncompressed; a gzip file of several members never does."""
    if not path.name.endswith(".gz"):
        return path.stat().st_size >= expected
    return gzip_length(path) == expected % 2**32


def gzip_length(path: Path) -> int:
    """Bytes modulo 2^32 that a gzip file's last member says it holds uncompressed."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read(4))[0]
