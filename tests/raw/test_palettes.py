"""Pictures with a palette: of an image the colours count, of a label map only what is the same both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umamba.raw.description import DatasetError
from umamba.raw.readers import read_images, read_label

NUMBERS = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
GREYS = {"same": (0, 1, 2, 3), "exchanged": (0, 2, 1, 3), "scaled": (0, 85, 170, 255)}


def with_palette(path: Path, colours: list[tuple[int, int, int]]) -> Path:
    picture = Image.fromarray(NUMBERS, mode="P")
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path)
    return path


@pytest.mark.parametrize("ending", [".png", ".bmp"])
@pytest.mark.parametrize("greys", list(GREYS))
def test_a_label_map_is_read_where_greys_and_numbers_are_one(tmp_path: Path, ending: str, greys: str) -> None:
    path = with_palette(tmp_path / f"a{ending}", [(grey,) * 3 for grey in GREYS[greys]])
    if greys == "same":
        assert np.array_equal(read_label(path)[0][0], NUMBERS)
    else:
        with pytest.raises(
            DatasetError, match=r"a\.\w+ is a picture with a palette, whose colours are not the numbers"
        ):
            read_label(path)


def test_colours_are_no_label_map_but_an_image(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    path = with_palette(tmp_path / "a.png", colours)
    with pytest.raises(DatasetError, match="with a palette"):
        read_label(path)
    image, _ = read_images([path])
    assert np.array_equal(np.moveaxis(image[:, 0], 0, -1), np.array(colours)[NUMBERS])


def test_the_numbers_of_a_tiff_are_a_label_map_and_no_image(tmp_path: Path) -> None:
    path = with_palette(tmp_path / "a.tif", [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert np.array_equal(read_label(path)[0][0], NUMBERS)
    with pytest.raises(DatasetError, match="TIFF with a palette: .* no intensities"):
        read_images([path])
