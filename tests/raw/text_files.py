"""MetaImage and NRRD files with any header."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LABEL = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)


def text(path: Path, *lines: str, voxels: bytes | None = None) -> Path:
    """A MetaImage or NRRD file with these lines in its header, before its voxels; by itself those of `LABEL`."""
    begin, last = ("NRRD0005\ntype: uint8\ndimension: 3\nsizes: 6 5 4\nencoding: raw\n", "\n")
    if path.suffix != ".nrrd":
        begin = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 6 5 4\nElementType = MET_UCHAR\n"
        last = "ElementDataFile = LOCAL\n"
    path.write_bytes(
        (begin + "".join(f"{line}\n" for line in lines) + last).encode()
        + (LABEL.tobytes() if voxels is None else voxels)
    )
    return path
