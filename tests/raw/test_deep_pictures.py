"""PNG of 16 bits keep them, and damaged ones are refused, in which the usual decoder sees no damage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.inference.small import cut
from umamba.raw.description import DatasetError
from umamba.raw.pictures import read_picture
from umamba.raw.readers import read_images

RANDOM = np.random.default_rng(0)


def write_png(path: Path, pixels: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3), path)
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("largest", [255, 65_535])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_are_read_as_they_were_written(tmp_path: Path, channels: int, largest: int, dtype: type) -> None:
    pixels = RANDOM.integers(0, min(largest, np.iinfo(dtype).max) + 1, (20, 30, channels)).astype(dtype)
    path = write_png(tmp_path / "a_0000.png", pixels if channels > 1 else pixels[..., 0])
    kept = pixels[..., :3] if channels > 2 else pixels[..., :1]  # alpha is dropped
    image, _ = read_images([path])
    np.testing.assert_array_equal(image[:, 0], np.moveaxis(kept, -1, 0))


def test_what_cannot_be_read_in_16_bits_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", RANDOM.integers(0, 65_536, (20, 30, 2)).astype(np.uint16))
    with pytest.raises(DatasetError, match=r"a\.png is a 16-bit PNG of grey and alpha.*Drop the alpha"):
        read_picture(path)


def test_a_deep_picture_too_large_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", RANDOM.integers(0, 65_536, (20, 30, 3)).astype(np.uint16))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">2I", 400_000, 400_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match=r"a\.png declares 1220703 MiB of pixels"):
        read_picture(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_with_a_flipped_bit_is_refused(tmp_path: Path, dtype: type) -> None:
    """Pillow looks at no checksum of the pixels: many of these were read with others."""
    refused = 0
    picture = np.add.outer(np.arange(60), np.arange(80))[..., None] * np.array([1, 2, 3])
    path = write_png(tmp_path / "a.png", picture.astype(dtype))
    np.testing.assert_array_equal(read_picture(path), picture.astype(dtype))
    whole = path.read_bytes()
    for at in range(45, len(whole) - 16, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        try:  # what is said about the picture, such as its physical size, may be passed over
            np.testing.assert_array_equal(read_picture(path), picture.astype(dtype))
        except DatasetError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_deep_picture_that_is_cut_off(tmp_path: Path, share: float) -> None:
    path = write_png(tmp_path / "a.png", RANDOM.integers(0, 65_536, (20, 30, 3)).astype(np.uint16))
    cut(path, share)
    with pytest.raises(DatasetError, match=r"a\.png cannot be read as a picture"):
        read_picture(path)
