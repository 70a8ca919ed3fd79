"""Instances <-> three classes, 8-bit RGB, and the phantom cells."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba.datamodules.prepare import phantom_cells
from umamba.datamodules.prepare.cells import to_rgb8, write_cells
from umamba.raw.instances import classes_to_instances, instances_to_classes


def neighbours(row: int, column: int, shape: tuple[int, int]) -> list[tuple[int, int]]:
    around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [(r, c) for r, c in around if 0 <= r < shape[0] and 0 <= c < shape[1]]


def classes_pixel_by_pixel(instances: np.ndarray) -> np.ndarray:
    """The definition written out: inner boundary, dilated by a cross, interiors under 16 px (4-connected) dropped."""
    shape = instances.shape
    inner = {
        (r, c)
        for r, c in np.argwhere(instances > 0).tolist()
        if any(instances[at] != instances[r, c] for at in neighbours(r, c, shape))
    }
    boundary = inner | {at for r, c in inner for at in neighbours(r, c, shape)}
    interior = {(r, c) for r, c in np.argwhere(instances > 0).tolist()} - boundary
    classes = np.zeros(shape, np.uint8)
    while interior:
        part, edge = set(), [interior.pop()]
        while edge:
            at = edge.pop()
            part.add(at)
            near = [n for n in neighbours(*at, shape) if n in interior]
            interior.difference_update(near)
            edge.extend(near)
        for at in part if len(part) >= 16 else ():
            classes[at] = 1
    for at in boundary:
        classes[at] = 2
    return classes


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_classes_follow_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances = np.kron(rng.integers(0, 4, (4, 5)), np.ones((7, 7), int))  # touching, border, background
    np.testing.assert_array_equal(instances_to_classes(instances), classes_pixel_by_pixel(instances))


def test_a_small_interior_is_dropped_and_a_large_one_kept() -> None:
    # a square of side n keeps an interior of side n - 4
    for side, kept in ((7, 0), (8, 16)):
        instances = np.zeros((20, 20), int)
        instances[5 : 5 + side, 5 : 5 + side] = 1
        classes = instances_to_classes(instances)
        assert (classes == 1).sum() == kept
        assert (classes == 2).sum() == (side + 2) ** 2 - 4 - (side - 4) ** 2  # the cross leaves out the corners


def test_instances_come_back_apart_and_growing_restores_their_size() -> None:
    _, instances = phantom_cells.make_cells(0, 1)
    classes = instances_to_classes(instances)
    shrunk, grown = classes_to_instances(classes), classes_to_instances(classes, grow=2)
    assert shrunk.dtype == grown.dtype == np.int32
    for identifier in range(1, instances.max() + 1):
        cell = instances == identifier
        found = np.unique(shrunk[cell & (classes == 1)])
        assert len(found) == 1
        overlap = [(cell & (m == found[0])).sum() / (cell | (m == found[0])).sum() for m in (shrunk, grown)]
        assert 0.3 < overlap[0] < 0.8 and overlap[1] > 0.9


def test_diagonal_interiors_are_one_instance() -> None:
    assert classes_to_instances(np.array([[1, 0], [0, 1]])).tolist() == [[1, 0], [0, 1]]


def test_rgb_of_grey_and_of_many_channels() -> None:
    grey = np.linspace(0, 60000, 400).reshape(20, 20).astype(np.uint16)
    rgb = to_rgb8(grey)
    assert rgb.dtype == np.uint8 and rgb.shape == (20, 20, 3)
    assert (rgb[..., 0] == rgb[..., 2]).all()
    low, high = np.percentile(grey[grey > 0], [1, 99])
    expected = np.clip((grey - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(rgb[..., 1], expected, atol=1)  # the cast cuts the fraction off

    rgba = np.stack([grey, np.zeros_like(grey), np.full_like(grey, 7), np.full_like(grey, 65535)], axis=-1)
    rgb = to_rgb8(rgba)
    assert rgb.shape == (20, 20, 3)
    assert (rgb[..., 1] == 0).all()  # empty stays empty
    assert (rgb[..., 2] == 7).all()  # without contrast: as it is
    assert (to_rgb8(rgba[..., :2])[..., 2] == 0).all()


def test_rgb_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got shape \(2, 3, 4, 5\)"):
        to_rgb8(np.zeros((2, 3, 4, 5)))


def test_image_and_instances_of_different_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a: the image is \(4, 4\) px, its instance map \(4, 5\)"):
        write_cells(tmp_path, "Tr", "a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int))
    assert not any(tmp_path.iterdir())


def test_phantom_cells_layout(tmp_path: Path) -> None:
    target = phantom_cells.prepare(None, tmp_path / "set", num_training=2, num_test=1)
    dataset = json.loads((target / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "R", "1": "G", "2": "B"} and dataset["file_ending"] == ".png"
    image, instances = phantom_cells.make_cells(20240109, 2)
    np.testing.assert_array_equal(iio.imread(target / "imagesTs" / "cells_002_0000.png"), image)
    stored = tifffile.imread(target / "instancesTs" / "cells_002.tif")
    assert stored.dtype == np.int32
    np.testing.assert_array_equal(stored, instances)
    label = iio.imread(target / "labelsTs" / "cells_002.png")
    np.testing.assert_array_equal(label, instances_to_classes(instances))
    assert set(np.unique(label)) == {0, 1, 2}
    with pytest.raises(ValueError, match="leave source out"):
        phantom_cells.prepare(tmp_path, tmp_path / "other")
