"""NSD and HD95: closed forms, laws and bad input; test_peers.py compares with other programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.made_masks import blobs, cube
from umamba.evaluation.surface import surface_distances


def test_cube_has_the_area_of_its_marching_cubes_surface():
    # Faces of n x n unit surfels less the rounding of edges and corners: 6 (n-1)^2 flat ones of area 1, 12 (n-1) edge
    # ones of sqrt(2)/2, 8 corner ones of sqrt(3)/8.
    n = 7
    element = surface_distances(cube((9, 9, 9), (1, 1, 1), (n, n, n)), np.zeros((9, 9, 9), bool), (1, 1, 1))
    expected = 6 * (n - 1) ** 2 + 12 * (n - 1) * math.sqrt(2) / 2 + 8 * math.sqrt(3) / 8
    assert element.reference_areas.sum() == pytest.approx(expected, rel=1e-6)


def test_rectangle_has_the_length_of_its_cut_contour():
    element = surface_distances(cube((9, 12), (2, 2), (4, 6)), np.zeros((9, 12), bool), (2.0, 0.5))
    diagonal = 0.5 * math.hypot(2.0, 0.5)
    assert element.reference_areas.sum() == pytest.approx(2 * 3 * 2.0 + 2 * 5 * 0.5 + 4 * diagonal, rel=1e-6)


@pytest.mark.parametrize("spacing", [(2.5, 0.8, 0.8), (1.0, 1.0, 1.0), (5.0, 0.7, 0.3)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_shift_by_exactly_the_tolerance_counts(spacing, axis, steps):
    start = [4, 4, 4]
    reference = cube((16, 16, 16), tuple(start), (6, 6, 6))
    start[axis] += steps
    prediction = cube((16, 16, 16), tuple(start), (6, 6, 6))
    distances = surface_distances(reference, prediction, spacing)
    tolerance = math.sqrt((steps * spacing[axis]) ** 2)
    assert distances.surface_dice(tolerance) == 1
    assert distances.robust_hausdorff(100) == pytest.approx(tolerance)
    assert distances.surface_dice(tolerance * 0.999) < 1


def test_shells_are_as_far_apart_as_their_radii():
    grid = np.indices((41, 41, 41)) - 20
    radius = np.sqrt((grid**2).sum(axis=0))
    distances = surface_distances(radius < 16, radius < 12, (1, 1, 1))
    assert distances.robust_hausdorff(95) == pytest.approx(4, abs=0.6)
    assert distances.surface_dice(5) == 1
    assert distances.surface_dice(2) == 0  # corners of voxels lie up to 0.9 off either sphere


def test_empty_masks():
    empty, full = np.zeros((5, 6, 7), bool), cube((5, 6, 7), (1, 1, 1), (2, 2, 2))
    assert math.isnan(surface_distances(empty, empty, (1, 1, 1)).surface_dice(1))
    for pair in ((empty, full), (full, empty)):
        assert surface_distances(*pair, (1, 1, 1)).surface_dice(1e9) == 0
        assert surface_distances(*pair, (1, 1, 1)).robust_hausdorff() == math.inf


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), dims=st.sampled_from([2, 3]), tolerance=st.floats(0, 6))
def test_nsd_is_symmetric_bounded_and_grows_with_the_tolerance(seed, dims, tolerance):
    a, b = blobs(seed, (12,) * dims), blobs(seed + 1, (12,) * dims)
    spacing = (2.0, 1.0, 0.5)[:dims]
    forth, back = surface_distances(a, b, spacing), surface_distances(b, a, spacing)
    assert forth.surface_dice(tolerance) == pytest.approx(back.surface_dice(tolerance))
    assert forth.robust_hausdorff() == back.robust_hausdorff()
    assert 0 <= forth.surface_dice(tolerance) <= forth.surface_dice(tolerance + 1) <= 1


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="spacing per axis; got reference \\(3, 3\\)"):
        surface_distances(np.ones((3, 3), bool), np.ones((3, 3), bool), (1, 1, 1))
