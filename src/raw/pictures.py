"""Pictures from and to disk: PNG and BMP by imageio, TIFF by tifffile, which only logs that a file is cut off.

Colour PNG of 16 bits are read by SimpleITK, for imageio gives 8 of them.
"""

from __future__ import annotations

import logging
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image
from skimage import io as skio

from umamba.files import atomic_file
from umamba.machine import require_memory
from umamba.raw.description import DatasetError
from umamba.words import listed

TIFF_ENDINGS = (".tif", ".tiff")
_GREY, _COLOURS, _PALETTE, _GREY_ALPHA = 0, (2, 6), 3, 4  # colour types of PNG: RGB and RGBA; palette; grey with alpha
_ORIENTATION = 274  # number of the tag, in TIFF as in EXIF
_PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_DAMAGE_WORDS = ("invalid page offset", "corrupt", "failed to reshape")  # of what tifffile logs about cut files


def is_tiff(path: Path) -> bool:
    """Whether the name is that of a TIFF file."""
    return path.suffix.lower() in TIFF_ENDINGS


def read_picture(path: Path) -> np.ndarray:
    """The pixels of a file as its decoder gives them, (H, W), (H, W, C) or, of a TIFF, (Z, H, W).

    Raises:
        DatasetError: The file is damaged, cut off, no picture, or does not fit into memory.
    """
    try:
        _check_png(path)
        colours, declared = _deep_colours(path)
        if colours == _GREY_ALPHA:
            raise DatasetError(
                f"{path} is a 16-bit PNG of grey and alpha, of which 8 bits can be read. Drop the alpha."
            )
        if colours in _COLOURS:
            require_memory(2 * declared, f"{path} declares {declared / 2**20:.0f} MiB of pixels")
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        if not is_tiff(path):
            return skio.imread(path) // _spread(path)
        with _opened_tiff(path) as tiff:
            _check_pages(tiff, path)
            _check_one_image(tiff, path)
            require_memory(tiff.series[0].nbytes, f"{path} holds {tiff.series[0].shape} values")
            pixels = tiff.asarray()
            planes_of_colours = tiff.series[0].axes == "SYX"  # no stack of slices
            return np.moveaxis(pixels, 0, -1) if planes_of_colours else pixels
    except DatasetError:
        raise
    except Exception as error:  # the decoders raise kinds of their own for damaged files
        raise DatasetError(f"{path} cannot be read as a picture ({error}). Is the file damaged or cut off?") from error


def _spread(path: Path) -> int:
    """By what Pillow multiplies the numbers of a grey PNG of 2 or 4 bits, so that they reach up to 255."""
    header = _png_header(path)
    return {2: 85, 4: 17}.get(header[24], 1) if header and header[25] == _GREY else 1


def shown_otherwise(path: Path) -> str | None:
    """How a picture says that it is to be shown, if that is not how its numbers are stored, which are what is read."""
    if is_tiff(path):
        with _opened_tiff(path) as tiff:
            page = tiff.series[0].keyframe
            turned = page.tags.valueof(_ORIENTATION, 1)
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                return "with 0 as white"
    elif _png_header(path) and b"eXIf" not in path.read_bytes():
        return None
    else:
        with Image.open(path) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1)
    return None if turned in (0, 1) else f"turned or mirrored (orientation {turned})"


def palette_numbers(path: Path) -> np.ndarray | None:
    """Of a PNG or BMP with a palette, which is read as colours: the numbers of these, (H, W); else None."""
    header = _png_header(path)
    if is_tiff(path) or (header and header[25] != _PALETTE):
        return None
    with Image.open(path) as picture:
        return np.asarray(picture) if picture.mode == "P" else None


def has_palette(path: Path) -> bool:
    """Whether a TIFF holds numbers of colours, which are not read as colours."""
    with _opened_tiff(path) as tiff:
        return tiff.series[0].keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE


def check_colours(path: Path) -> None:
    """See that a TIFF's last axis of 2 to 4 is of colours, or ends in alpha, for which any channel would be taken.

    Raises:
        DatasetError: It is not.
    """
    with _opened_tiff(path) as tiff:
        shape, page = tiff.series[0].shape, tiff.series[0].keyframe
        of_colours = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        with_alpha = page.extrasamples[-1:] in ((1,), (2,))
        samples = page.samplesperpixel  # 1: slices of so few columns, as tifffile writes an array (y, x, 2)
    if samples == 1 or (samples != 3 and not of_colours and not with_alpha):
        raise DatasetError(
            f"{path} has an array of shape {shape} with channels that are neither colours nor alpha. Write each "
            "channel into a file of its own: NAME_0000, NAME_0001, ..."
        )


def _check_png(path: Path) -> None:
    """See that the pixels of a PNG have their checksums, at which Pillow does not look; other files pass.

    Raises:
        ValueError: They do not.
    """
    content = memoryview(path.read_bytes())
    at = len(_PNG_BEGIN)
    kind = None if content[:at] == _PNG_BEGIN else b"IEND"
    while kind != b"IEND":
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        at += 8 + size
        (stated,) = struct.unpack(">I", content[at : at + 4])
        # A lower-case letter marks what a reader may pass over.
        if kind[:1].isupper() and zlib.crc32(content[at - size - 4 : at]) != stated:
            raise ValueError(f"the checksum of its {kind.decode(errors='replace')} is another one")
        at += 4


def _deep_colours(path: Path) -> tuple[int | None, int]:
    """Colour type of a PNG of 16 bits, and how many bytes its pixels take at most; (None, 0) for any other file.

    Of such a file's colours Pillow, and imageio with it, keeps the upper 8 bits.
    """
    header = _png_header(path)
    deep = header and header[24] == 16
    return (header[25], 8 * math.prod(struct.unpack(">2I", header[16:24]))) if deep else (None, 0)


def _png_header(path: Path) -> bytes:
    """The first bytes of a PNG, up to the colour type; b"" of any other file."""
    with open(path, "rb") as file:
        header = file.read(26)
    return header if len(header) == 26 and header.startswith(_PNG_BEGIN) else b""


def check_picture_whole(path: Path) -> None:
    """See that a picture is not cut off; one is decoded only if its last bytes or its header leave a doubt.

    Raises:
        DatasetError: It is.
    """
    ending, size = path.suffix.lower(), path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(6)
        file.seek(max(0, size - len(_PNG_END)))
        tail = file.read()
    if ending == ".png" and tail == _PNG_END:
        return
    if ending == ".bmp" and head[:2] == b"BM" and size >= int.from_bytes(head[2:6], "little"):
        return
    if not is_tiff(path):
        read_picture(path)
        return
    try:
        with _opened_tiff(path) as tiff:
            _check_pages(tiff, path)
    except (tifffile.TiffFileError, ValueError, IndexError) as error:
        raise DatasetError(f"{path} cannot be read as a picture ({error}). Is the file damaged or cut off?") from error


def _check_pages(tiff: tifffile.TiffFile, path: Path) -> None:
    size = path.stat().st_size
    end = max(
        start + count for page in tiff.pages for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    )
    if end > size:
        raise DatasetError(f"{path} has {size} bytes, its pages need {end}: it is cut off. Copy it again.")


def _check_one_image(tiff: tifffile.TiffFile, path: Path) -> None:
    """See that all pages are one image, of which tifffile reads the first; smaller copies of it do not count."""
    images = [series for series in tiff.series if not series.keyframe.is_reduced]
    if len(images) > 1:
        shapes = listed([" x ".join(map(str, image.shape)) for image in images], 3)
        raise DatasetError(
            f"{path} holds {len(images)} images (pixels: {shapes}), and a file is read as one. If they are slices of "
            "one volume, write them together (tifffile.imwrite(path, stack), not page by page with append=True); else "
            "give each a file of its own."
        )
    if images and images[0].axes.startswith("C") and images[0].ndim > 2:
        raise DatasetError(
            f"{path} says that its {images[0].shape[0]} planes are channels (axes {images[0].axes}), which are no "
            "slices. Write each channel into a file of its own: NAME_0000, NAME_0001, ...; if they are slices, write "
            "them with metadata={'axes': 'ZYX'}, without which tifffile's imagej=True calls them channels."
        )
    if images and images[0].axes.startswith("T") and images[0].ndim > 2:
        raise DatasetError(
            f"{path} says that its {images[0].shape[0]} parts are moments in time (axes {images[0].axes}), which are "
            "no slices. Make a case of each moment; or if they are slices, write them with metadata={'axes': 'ZYX'} "
            "(tifffile; in Fiji: Image > Properties, frames 1)."
        )


@contextmanager
def _opened_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """An opened TIFF; at the end of the block what tifffile logged about damages becomes an error."""
    logger, collector = logging.getLogger("tifffile"), _Collector()
    logger.addHandler(collector)
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    finally:
        logger.removeHandler(collector)
    if collector.damages:
        raise DatasetError(f"{path} is cut off or damaged ({collector.damages[0]}). Copy it again.")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.damages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if any(word in message for word in _DAMAGE_WORDS):
            self.damages.append(message)


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
        if is_tiff(path):
            colour = picture.ndim == 3 and picture.dtype == np.uint8 and picture.shape[-1] == 3
            photometric = "rgb" if colour else "minisblack"  # else tifffile takes a stack of 3 slices for colours
            tifffile.imwrite(beside, picture, compression="zlib", photometric=photometric)
        else:  # through bytes: imageio closes its own file where an error of the disk is lost
            beside.write_bytes(iio.imwrite("<bytes>", picture, extension=path.suffix))
