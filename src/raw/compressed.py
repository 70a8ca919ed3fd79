"""The checksums and lengths of compressed NRRD and MetaImage files, which SimpleITK does not look at."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from umamba.raw.description import DatasetError

_HEADER_BYTES = 1 << 16  # in which the text header ends
_CHUNK = 1 << 24  # bytes decompressed at a time
_TRAILING = 1 << 24  # bytes after the last voxel that are followed
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS  # MetaImage holds the one, NRRD the other


def check_compressed(path: Path, voxel_bytes: int) -> None:
    """Decompress the voxels of a NRRD or MetaImage file to their checksum; an uncompressed file has none.

    Args:
        path: The file, or the header of one whose voxels lie in a file of their own.
        voxel_bytes: What its header declares.

    Raises:
        DatasetError: The voxels are damaged or cut off, or compressed in a way that cannot be checked.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER_BYTES)
    place = _nrrd(head, path) if head.startswith(b"NRRD") else _metaimage(head, path)
    if place is None:
        return
    offset, name = place
    data = path if name is None else path.parent / name
    try:
        size, taken = _decompressed_size(data, offset, voxel_bytes + _TRAILING)
    except (zlib.error, EOFError, OSError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): it is damaged or cut off. Copy it again.") from error
    if size < voxel_bytes:
        raise DatasetError(f"{path} holds {size} of {voxel_bytes} bytes of voxels: it is cut off. Copy it again.")
    stated = stated_size(head)
    if not head.startswith(b"NRRD") and (stated or (1 if name is None else taken)) < taken:
        raise DatasetError(
            f"{path} states CompressedDataSize = {'nothing' if stated is None else stated}, and its compressed voxels "
            f"take {taken} bytes: the rest would be read as arbitrary numbers. Correct its header, or write it again."
        )


def stated_size(head: bytes) -> int | None:
    """Bytes of the compressed voxels by a MetaImage's header."""
    stated = re.search(rb"^CompressedDataSize *= *(\d+)", head, re.MULTILINE)
    return int(stated[1]) if stated else None


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


def _nrrd(head: bytes, path: Path) -> tuple[int, str | None] | None:
    """Where compressed voxels begin, and in which other file; None for uncompressed ones."""
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.end()] if end else head
    if not re.search(rb"^encoding: *(gz|gzip) *\r?$", text, re.MULTILINE | re.IGNORECASE):
        return None
    detached = re.search(rb"^data ?file: *(.+?) *\r?$", text, re.MULTILINE | re.IGNORECASE)
    return _place(path, end, detached and detached[1])


def _metaimage(head: bytes, path: Path) -> tuple[int, str | None] | None:
    """As `_nrrd`, of a MetaImage file."""
    end = re.search(rb"^ElementDataFile *= *(.+?) *\r?\n", head + b"\n", re.MULTILINE)
    text = head[: end.end()] if end else head
    if not re.search(rb"^CompressedData *= *True", text, re.MULTILINE | re.IGNORECASE):
        return None
    return _place(path, end, None if end is None or end[1].upper() == b"LOCAL" else end[1])


def _place(path: Path, end: re.Match[bytes] | None, detached: bytes | None) -> tuple[int, str | None]:
    if detached is not None:
        name = detached.decode(errors="replace")
        if name.upper().startswith("LIST") or "%" in name:
            raise DatasetError(f"{path}: its compressed voxels are in several files ({name}); write it as one file.")
        return 0, name
    if end is None:
        raise DatasetError(f"{path}: its header does not end within {_HEADER_BYTES} bytes; write the file again.")
    return end.end(), None
