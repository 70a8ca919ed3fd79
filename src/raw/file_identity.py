"""By what the file of an image or label is known again: its stamp, and a hash of all that it holds.

A stamp is what the file system tells without reading: as long as it is the same nobody has written to the file or put
another in its place. Size and time of the last change alone can be kept by who exchanges a file (``cp -p``,
``rsync -t``, ``tar``); the time of the last change of its inode, or the inode, then differ. A file that was copied or
moved has another stamp and the same content.

Some formats keep a part of an image in a file beside it; that counts as part of the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from umamba.files import content_hash, file_hash
from umamba.raw.text_header import TextHeader

_SAMPLES, _SAMPLE_BYTES = 16, 8192  # of a file, evenly spaced, its first and last bytes among them


def parts_of(path: Path) -> list[Path]:
    """The files that an image's file consists of: itself, its `voxel_file`, and the JSON files of a TIFF's spacing."""
    beside = spacing_files(path) if path.suffix in (".tif", ".tiff") else [voxel_file(path)]
    return [path, *(other for other in beside if other != path and other.is_file())]


def voxel_file(path: Path) -> Path:
    """The file with the voxels: of a MetaImage or NRRD, the one beside it that its header may name; else itself."""
    header = TextHeader.read(path)
    return header.voxel_file if header and header.voxel_file.is_file() else path


def spacing_files(path: Path) -> list[Path]:
    """Where the spacing of a 3D TIFF may stand: NAME.json beside NAME.tif, or beside NAME_0000.tif."""
    name = path.name.removesuffix(path.suffix)
    names = [name, name[:-5]] if re.fullmatch(r".+_\d{4}", name) else [name]
    return [path.with_name(f"{one}.json") for one in names]


def file_stamp(path: Path) -> list[int]:
    """Size in bytes, times of the last change of content and inode in ns, and inode, of each part."""
    stats = [part.stat() for part in parts_of(path)]
    return [number for s in stats for number in (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)]


def file_content(path: Path) -> str:
    """32 hexadecimal digits of the BLAKE2b of all that a file holds; of several parts, a hash of theirs."""
    hashes = [file_hash(part) for part in parts_of(path)]
    return hashes[0] if len(hashes) == 1 else content_hash(hashes)


def identity_of(path: Path) -> dict[str, Any]:
    """Stamp and content of a file, as plain data; the stamp is of before it was read."""
    stamp = file_stamp(path)
    return {"stamp": stamp, "content": file_content(path)}


def are_same(paths: Sequence[Path], identities: Sequence[Mapping[str, Any]]) -> bool:
    """Whether files that are there are those of these identities; they are read only where their stamps differ.

    Args:
        paths: The files, as they are now.
        identities: Of `identity_of`, in their order; without a content the stamp alone tells.
    """
    return len(paths) == len(identities) and all(
        path.is_file()
        and (file_stamp(path) == known.get("stamp") or ("content" in known and file_content(path) == known["content"]))
        for path, known in zip(paths, identities, strict=True)
    )


def fingerprint(path: Path) -> str:
    """16 hexadecimal digits by which an image file is known again wherever it lies.

    Its length and samples of it are hashed, for reading whole data sets would take minutes. Compressed files end in a
    checksum of all they hold.
    """
    path = voxel_file(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for index in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
