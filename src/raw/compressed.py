"""The checksums and lengths of compressed NRRD and MetaImage files, which SimpleITK does not look at."""

from __future__ import annotations

import zlib
from pathlib import Path

from umamba.raw.description import DatasetError
from umamba.raw.text_header import TextHeader

_CHUNK = 1 << 24  # bytes decompressed at a time
_TRAILING = 1 << 24  # bytes after the last voxel that are followed
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS  # MetaImage holds the one, NRRD the other


def check_compressed(path: Path, voxel_bytes: int) -> None:
    """Decompress the voxels of a NRRD or MetaImage file to their checksum; an uncompressed file has none.

    Args:
        path: The file, or the header of one whose voxels lie in a file of their own.
        voxel_bytes: What its header declares.

    Raises:
        DatasetError: The voxels are damaged or cut off, or another length of them is stated than they have.
    """
    header = TextHeader.read(path)
    if header is None or not header.compressed:
        return
    data = header.voxel_file
    offset = header.end or 0 if data == path else 0
    try:
        size, taken = _decompressed_size(data, offset, voxel_bytes + _TRAILING)
    except (zlib.error, EOFError, OSError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): it is damaged or cut off. Copy it again.") from error
    if size < voxel_bytes:
        raise DatasetError(f"{path} holds {size} of {voxel_bytes} bytes of voxels: it is cut off. Copy it again.")
    stated = header.compressed_size
    if not header.is_nrrd and (stated or (1 if data == path else taken)) < taken:
        raise DatasetError(
            f"{path} states CompressedDataSize = {'nothing' if stated is None else stated}, and its compressed voxels "
            f"take {taken} bytes: the rest would be read as arbitrary numbers. Correct its header, or write it again."
        )


def _decompressed_size(path: Path, offset: int, most: int) -> tuple[int, int]:
    """Bytes of a stream, decompressed and as they are stored."""
    stream, size, read = zlib.decompressobj(_ZLIB_OR_GZIP), 0, 0
    with open(path, "rb") as file:
        file.seek(offset)
        while not stream.eof and size <= most:
            block = stream.unconsumed_tail
            if not block:
                block = file.read(_CHUNK)
                read += len(block)
            if not block:
                raise EOFError("the compressed data end before their checksum")
            size += len(stream.decompress(block, _CHUNK))
    return size, read - len(stream.unused_data) - len(stream.unconsumed_tail)
