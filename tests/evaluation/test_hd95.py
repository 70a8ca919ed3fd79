"""HD95 against its definition written out: corners one by one, areas of the marching cubes' mesh, a search tree."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import skimage.measure
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from umamba.evaluation.standard import score_semantic

Spacing = tuple[float, ...]


@cache
def area(neighbours: tuple[bool, ...], spacing: Spacing) -> float:
    """Of the surface between the 2^d voxels around a corner."""
    if len(spacing) == 2:  # marching squares
        across, rows = math.hypot(*spacing), np.reshape(neighbours, (2, 2))
        if rows.sum() != 2:
            return across / 2  # one voxel, or all but one, is cut off
        if rows[0, 0] == rows[1, 1]:
            return across  # two that touch at the corner: two cuts
        return spacing[1] if rows[0, 0] == rows[0, 1] else spacing[0]
    cube = np.reshape(neighbours, (2, 2, 2)).astype(float)
    points, faces, _, _ = skimage.measure.marching_cubes(cube, 0.5, spacing=spacing, method="lorensen")
    return float(skimage.measure.mesh_surface_area(points, faces))


def surface(mask: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, d) where the mask ends, in mm, and their areas (n,)."""
    padded = np.pad(mask, 1)
    points, areas = [], []
    for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
        around = padded[tuple(slice(i, i + 2) for i in corner)]
        if around.any() and not around.all():
            points.append(np.multiply(corner, spacing))
            areas.append(area(tuple(map(bool, around.ravel())), spacing))
    return np.array(points), np.array(areas)


def percentile_95(start: tuple[np.ndarray, np.ndarray], goal: tuple[np.ndarray, np.ndarray]) -> float:
    """The smallest distance that 95 % of the area is within."""
    distances, _ = cKDTree(goal[0]).query(start[0])
    within = 0.0
    for distance, size in sorted(zip(distances, start[1], strict=True)):
        within += size
        if within >= 0.95 * start[1].sum() * (1 - 1e-12):
            return distance
    raise AssertionError("unreachable")


def hd95(reference: np.ndarray, prediction: np.ndarray, spacing: Spacing) -> float:
    one, other = surface(reference, spacing), surface(prediction, spacing)
    return max(percentile_95(one, other), percentile_95(other, one))


def ours(reference: np.ndarray, prediction: np.ndarray, spacing: Spacing) -> dict:
    labels = reference.astype(np.uint8), prediction.astype(np.uint8)
    return score_semantic(*labels, spacing, {"organ": 1}, {"organ": 1.0})[0]


def blob(shape: tuple[int, ...], seed: int, share: float = 0.2) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return noise > np.quantile(noise, 1 - share)


def box(shape: tuple[int, ...], start: tuple[int, ...], size: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(i, i + size) for i in start)] = True
    return mask


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.3, 2.0, 1.1)])
@pytest.mark.parametrize("seed", range(3))
def test_volumes(spacing: Spacing, seed: int) -> None:
    reference, prediction = blob((12, 16, 14), seed), blob((12, 16, 14), seed + 50, share=0.1)
    assert ours(reference, prediction, spacing)["hd95"] == pytest.approx(hd95(reference, prediction, spacing), abs=1e-9)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_pictures(spacing: Spacing, seed: int) -> None:
    reference, prediction = blob((40, 30), seed), blob((40, 30), seed + 50)
    assert ours(reference, prediction, spacing)["hd95"] == pytest.approx(hd95(reference, prediction, spacing), abs=1e-9)


@pytest.mark.parametrize(
    ("start", "size"), [((0, 0, 0), 4), ((4, 4, 4), 1), ((6, 2, 3), 4), ((4, 4, 4), 4)],
    ids=["at the border", "one voxel", "apart", "equal"],
)  # fmt: skip
def test_boxes(start: tuple[int, ...], size: int) -> None:
    spacing = (3.0, 1.0, 0.7)
    reference, prediction = box((10, 10, 10), (4, 4, 4), 4), box((10, 10, 10), start, size)
    expected = hd95(reference, prediction, spacing)
    assert ours(reference, prediction, spacing)["hd95"] == pytest.approx(expected, abs=1e-9)
    assert (expected == 0) == (start == (4, 4, 4) and size == 4)


def test_a_stray_voxel_of_less_than_a_twentieth_of_the_surface_does_not_count() -> None:
    reference = box((30, 30, 30), (5, 5, 5), 12)
    prediction = reference.copy()
    prediction[28, 28, 28] = True
    assert ours(reference, prediction, (1.0, 1.0, 1.0))["hd95"] == 0 == hd95(reference, prediction, (1.0, 1.0, 1.0))


def test_a_mask_that_is_empty_has_no_distance() -> None:
    full, empty = box((8, 8, 8), (2, 2, 2), 3), np.zeros((8, 8, 8), bool)
    for reference, prediction in ((full, empty), (empty, full)):
        row = ours(reference, prediction, (1.0, 1.0, 1.0))
        assert math.isnan(row["hd95"]) and row["dsc"] == 0  # infinite: counted beside the means
    row = ours(empty, empty, (1.0, 1.0, 1.0))
    assert math.isnan(row["hd95"]) and math.isnan(row["dsc"])
