"""A TIFF that keeps red, green and blue in planes of their own is a picture, not a stack of three slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from umamba.files import write_json
from umamba.raw.readers import read_images, read_label

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("beside", [False, True])  # what was asked for to read it as a volume
def test_planes_of_colours_are_channels(tmp_path: Path, samples: int, beside: bool) -> None:
    planes = RANDOM.integers(0, 256, (samples, 20, 30)).astype(np.uint8)
    path = tmp_path / "a_0000.tif"
    extra = ["unassalpha"] * (samples - 3)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", extrasamples=extra or None)
    if beside:
        write_json({"spacing": [1.0, 1.0, 1.0]}, path.with_suffix(".json"))
    image, geometry = read_images([path])
    np.testing.assert_array_equal(image[:, 0], planes[:3])  # alpha is dropped
    assert geometry.dimension == 2


def test_three_slices_are_a_stack_still(tmp_path: Path) -> None:
    slices = RANDOM.integers(0, 3, (3, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", slices, photometric="minisblack")
    write_json({"spacing": [2.0, 1.0, 1.0]}, tmp_path / "a.json")
    label, geometry = read_label(tmp_path / "a.tif")
    np.testing.assert_array_equal(label, slices)
    assert geometry.dimension == 3 and geometry.spacing == (2.0, 1.0, 1.0)
