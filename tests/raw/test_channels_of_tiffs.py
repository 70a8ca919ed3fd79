"""A TIFF whose channels are neither colours nor alpha is refused: a channel taken for alpha would be dropped unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from umamba.raw.description import DatasetError
from umamba.raw.readers import read_images, read_label

PIXELS = np.random.default_rng(0).integers(0, 3, (20, 30, 4)).astype(np.uint8)


def written(folder: Path, channels: int, **how) -> Path:
    path = folder / "a_0000.tif"
    tifffile.imwrite(path, PIXELS[..., :channels], **how)
    return path


@pytest.mark.parametrize(
    ("channels", "how"),
    [
        (2, {}),  # as 20 pages of 30 x 2
        (2, {"photometric": "minisblack", "planarconfig": "contig"}),
        (4, {"photometric": "minisblack", "planarconfig": "contig"}),
        (4, {"photometric": "minisblack"}),  # pages again
    ],
)
def test_other_channels_are_refused(tmp_path: Path, channels: int, how: dict) -> None:
    path = written(tmp_path, channels, **how)
    for read in (read_label, lambda path: read_images([path])):
        with pytest.raises(DatasetError, match=r"a_0000\.tif has an array of shape .* neither colours nor alpha"):
            read(path)


@pytest.mark.parametrize(
    ("channels", "kept", "how"),
    [
        (2, 1, {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}),
        (3, 3, {}),
        (3, 3, {"photometric": "minisblack", "planarconfig": "contig"}),
        (4, 3, {}),
        (4, 3, {"photometric": "rgb", "extrasamples": ["unspecified"]}),  # as OpenCV writes its alpha
    ],
)
def test_colours_and_alpha_are_read(tmp_path: Path, channels: int, kept: int, how: dict) -> None:
    image, _ = read_images([written(tmp_path, channels, **how)])
    np.testing.assert_array_equal(image[:, 0], np.moveaxis(PIXELS[..., :kept], -1, 0))
