"""Of a TIFF that holds several images tifffile reads the first: that is refused, a smaller copy beside it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from umamba.files import write_json
from umamba.raw.description import DatasetError
from umamba.raw.readers import read_images, read_label

STACK = np.random.default_rng(0).integers(0, 3, (5, 20, 30)).astype(np.uint16)


def page_by_page(path: Path) -> None:
    for page in STACK:
        tifffile.imwrite(path, page, append=True)


def of_two_sizes(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[0], metadata=None)
        writer.write(STACK[0, :10], metadata=None)


def of_channels(path: Path) -> None:
    tifffile.imwrite(path, STACK[:3], imagej=True, metadata={"axes": "CYX"})


def of_moments(path: Path) -> None:
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TYX"})


def of_volumes(path: Path) -> None:
    tifffile.imwrite(path, np.stack([STACK, STACK]), imagej=True, metadata={"axes": "TZYX"})


def of_colours(path: Path) -> None:
    pages = [Image.fromarray(np.repeat(page[..., None].astype(np.uint8), 3, -1)) for page in STACK]
    pages[0].save(path, save_all=True, append_images=pages[1:])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (page_by_page, r"holds 5 images \(pixels: 20 x 30, 20 x 30, 20 x 30, and 2 more\).*append=True"),
        (of_two_sizes, r"holds 2 images \(pixels: 20 x 30, 10 x 30\)"),
        (of_channels, r"its 3 planes are channels \(axes CYX\).*metadata={'axes': 'ZYX'}"),
        (of_moments, r"its 5 parts are moments in time \(axes TYX\)"),
        (of_volumes, r"its 2 parts are moments in time \(axes TZYX\)"),
        (of_colours, r"shape \(5, 20, 30, 3\); expected .* or a grey stack \(z, y, x\)"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: read_images([path]), read_label])
def test_what_is_no_stack_is_refused(
    write: Callable[[Path], None], reason: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    write(tmp_path / "a.tif")
    write_json({"spacing": [3.0, 0.7, 0.7]}, tmp_path / "a.json")
    with pytest.raises(DatasetError, match=reason):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(20, 30), (5, 20, 30)])
def test_smaller_copies_are_passed_over(shape: tuple[int, ...], tmp_path: Path) -> None:
    image = STACK[0] if len(shape) == 2 else STACK
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, subifds=1, photometric="minisblack")
        writer.write(image[..., ::2, ::2], subfiletype=1, photometric="minisblack")
        writer.write(STACK[0, ::4, ::4], subfiletype=1)
    write_json({"spacing": [3.0, 0.7, 0.7]}, tmp_path / "a.json")
    label, _ = read_label(tmp_path / "a.tif")
    np.testing.assert_array_equal(label, image.reshape(-1, 20, 30))
