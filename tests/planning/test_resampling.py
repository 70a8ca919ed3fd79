"""Resampling against skimage and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from umamba.planning.resampling import (
    largest_share,
    nearest_index,
    resample_image,
    resample_label,
    separate_axis,
)
from umamba.planning.splines import resize_plane, spline_weights

ISOTROPIC = (1.0, 1.0, 1.0)
sizes = st.integers(1, 17)
shapes = st.tuples(sizes, sizes, sizes)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, target=shapes, seed=st.integers(0, 99))
def test_images_are_resized_as_by_skimage(shape, target, seed):
    volume = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    expected = resize(volume.astype(np.float64), target, 3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resample_image(volume, target, ISOTROPIC, ISOTROPIC), expected, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), target=st.integers(1, 40), order=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_weights_along_an_axis_are_those_of_skimage(size, target, order, seed):
    line = np.random.default_rng(seed).normal(size=size)
    expected = resize(line, (target,), order, mode="edge", anti_aliasing=False, clip=False)
    np.testing.assert_allclose(spline_weights(size, target, order) @ line, expected, atol=1e-9)
    with pytest.raises(ValueError, match="order = 2: expected 1 or 3"):
        spline_weights(size, target, 2)


def test_long_axes_take_sparse_matrices():
    volume = np.random.default_rng(0).normal(size=(1, 900, 800)).astype(np.float32)
    expected = resize(volume.astype(np.float64), (1, 700, 1000), 3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resample_image(volume, (1, 700, 1000), ISOTROPIC, ISOTROPIC), expected, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, target=shapes, axis=st.integers(0, 2), seed=st.integers(0, 99))
def test_thick_slices_are_resized_one_by_one(shape, target, axis, seed):
    """In plane by skimage, across by scipy's nearest neighbour; thick along any axis."""
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    volume = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    plane = [target[i] for i in range(3) if i != axis]
    slices = [
        resize(s.astype(np.float64), plane, 3, mode="edge", anti_aliasing=False) for s in np.moveaxis(volume, axis, 0)
    ]
    resized = np.stack(slices, axis)
    coordinates = [
        (np.arange(new) + 0.5) * (old / new) - 0.5 if i == axis else np.arange(new, dtype=float)
        for i, (old, new) in enumerate(zip(resized.shape, target, strict=True))
    ]
    expected = ndimage.map_coordinates(resized, np.meshgrid(*coordinates, indexing="ij"), order=0, mode="nearest")
    if volume.shape == tuple(target):
        expected = volume
    np.testing.assert_allclose(resample_image(volume, target, spacing, ISOTROPIC), expected, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, target=shapes, seed=st.integers(0, 99))
def test_labels_are_the_largest_interpolated_mask(shape, target, seed):
    """By definition: one mask per label through skimage, the largest wins, ties to the nearest label or the lowest."""
    label = np.random.default_rng(seed).integers(-1, 4, size=shape).astype(np.int16)
    values = np.unique(label)
    scores = np.stack([resize((label == v).astype(float), target, 1, mode="edge", anti_aliasing=False) for v in values])
    nearest = resize(label.astype(float), target, 0, mode="edge", anti_aliasing=False).astype(np.int16)
    tied = scores == scores.max(0)
    expected = np.where(
        np.take_along_axis(tied, np.searchsorted(values, nearest)[None], 0)[0], nearest, values[tied.argmax(0)]
    )
    result = resample_label(label, target, ISOTROPIC, ISOTROPIC)
    np.testing.assert_array_equal(result, label if shape == target else expected)
    assert result.dtype == np.int16


def test_resampling_stays_within_the_range_of_the_input():
    step = np.zeros((1, 1, 20), np.float32)
    step[..., 10:] = 1
    fine = resample_image(step, (1, 1, 57), ISOTROPIC, ISOTROPIC)
    assert fine.min() == 0 and fine.max() == 1  # a cubic spline overshoots; clipping takes it back


@settings(max_examples=30, deadline=None)
@given(shape=shapes, target=shapes)
def test_there_and_back_keeps_the_shape(shape, target):
    volume = np.ones(shape, np.float32)
    back = resample_image(resample_image(volume, target, ISOTROPIC, ISOTROPIC), shape, ISOTROPIC, ISOTROPIC)
    assert back.shape == shape
    np.testing.assert_allclose(back, 1, atol=1e-5)


def test_which_axis_is_separate():
    assert separate_axis((5, 1, 1), (1, 1, 1)) == 0
    assert separate_axis((1, 1, 1), (1, 1, 4)) == 2  # the new spacing decides only if the current one is isotropic
    assert separate_axis((1, 5, 5), (9, 1, 1)) is None  # two coarse axes, and the new spacing is not asked
    assert separate_axis((3, 1, 1), (3, 1, 1)) is None  # exactly 3 is not above 3


def test_nearest_index_rounds_ties_up():
    assert nearest_index(2, 1).tolist() == [1]
    assert nearest_index(3, 6).tolist() == [0, 0, 1, 1, 2, 2]


def test_nothing_is_copied_where_the_shape_stays():
    volume, label = np.ones((3, 4, 5), np.float32), np.ones((3, 4, 5), np.int16)
    assert resample_image(volume, (3, 4, 5), (1, 1, 1), (2, 2, 2)) is volume
    assert resample_label(label, (3, 4, 5), (1, 1, 1), (2, 2, 2)) is label


def test_the_largest_share_wins_and_ties_go_to_the_preferred_or_the_lowest_label():
    """Four voxels between two corners; as many labels as corners, and more, are counted in two ways."""
    corners = [np.array([5, 5, 5, 7]), np.array([2, 2, 2, 7])]
    weights = [np.array([0.75, 0.5, 0.5, 0.25]), np.array([0.25, 0.5, 0.5, 0.75])]
    preferred = np.array([2, 5, 9, 2])
    for more in (0, 1):
        labels = [np.append(corner, range(20, 20 + 4 * more)) for corner in corners]
        shares = [np.append(weight, [0.5] * 4 * more) for weight in weights]
        assert largest_share(labels, shares)[:4].tolist() == [5, 2, 2, 7]
        wanted = np.append(preferred, [0] * 4 * more)
        assert largest_share(labels, shares, preferred=wanted)[:4].tolist() == [5, 5, 2, 7]


@pytest.mark.parametrize(
    ("shape", "target"),
    [((30, 47), (60, 91)), ((5, 1), (9, 4)), ((1, 1), (2, 3)), ((40, 20), (40, 37)), ((20, 40), (37, 40)),
     ((12, 9), (12, 9)), ((50, 60), (31, 17)), ((300, 451), (512, 640))],
)  # fmt: skip
def test_a_plane_is_resized_as_the_dense_matrices_do(shape: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    expected = image.astype(np.float64)
    for axis in (0, 1):
        if shape[axis] != target[axis]:
            weights = spline_weights(shape[axis], target[axis], 3)
            expected = np.moveaxis(np.tensordot(weights, expected, axes=(1, axis)), 0, axis)
    got = resize_plane(image, target)
    assert got.shape == target and got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=5e-6)
