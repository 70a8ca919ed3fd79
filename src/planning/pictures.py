"""Pictures to and from disk: PNG and BMP by imageio, TIFF by tifffile."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile

from src.files import atomic_file

TIFF_ENDINGS = (".tif", ".tiff")


def write_picture(picture: np.ndarray, path: Path | str) -> None:
    """Write a picture, or a stack of them as TIFF, whole or not at all.

    Args:
        picture: (H, W), (H, W, 3) or, as TIFF, (Z, H, W).
        path: Its ending decides the format; TIFF is compressed by zlib.

    Raises:
        OSError: The disk is full or cannot be written to; names `path`.
    """
    path = Path(path)
    with atomic_file(path) as beside:
        if path.suffix.lower() in TIFF_ENDINGS:
            colour = picture.ndim == 3 and picture.dtype == np.uint8 and picture.shape[-1] == 3
            photometric = "rgb" if colour else "minisblack"  # else tifffile takes a stack of 3 slices for colours
            tifffile.imwrite(beside, picture, compression="zlib", photometric=photometric)
        else:  # through bytes: imageio closes its own file where an error of the disk is lost
            beside.write_bytes(iio.imwrite("<bytes>", picture, extension=path.suffix))
