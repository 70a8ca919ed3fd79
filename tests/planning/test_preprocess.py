"""Cropping, normalisation and locations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.normalization import SCHEMES
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.planning.preprocess import class_locations, preprocess_case
from umamba.raw.cropping import crop_to_nonzero
from umamba.raw.description import DatasetDescription
from umamba.raw.readers import Geometry

ISOTROPIC = (1.0, 1.0, 1.0)
sizes = st.integers(1, 17)
shapes = st.tuples(sizes, sizes, sizes)


def geometry_of(shape, spacing) -> Geometry:
    return Geometry(
        spacing=tuple(spacing),
        origin=(0.0,) * 3,
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        shape=tuple(shape),
        dimension=3,
    )


def plan_for(shape, spacing, classes=3, channels=("MR",)) -> Plan:
    """A plan of one case."""
    statistics = Intensities(
        mean=10.0, median=9.0, std=4.0, min=0.0, max=30.0, percentile_00_5=1.0, percentile_99_5=25.0
    )
    fingerprint = Fingerprint(
        spacings=(tuple(spacing),),
        shapes_after_crop=(tuple(shape),),
        intensities=(statistics,) * len(channels),
        median_relative_size=1.0,
    )
    description = DatasetDescription(
        name="Toy",
        channel_names=tuple(channels),
        labels={"background": 0, **{f"c{i}": i for i in range(1, classes)}},
        file_ending=".nii.gz",
        num_training=1,
    )
    return plan_dataset(fingerprint, description, PlannerOptions())


def test_crop_keeps_holes_and_labels():
    image = np.zeros((2, 7, 9, 9), np.float32)
    image[0, 1:6, 2:8, 2:8] = 5
    image[0, 3, 4, 4] = 0  # a hole: inside
    image[1, 5, 2, 8] = 1  # the box is that of both channels
    label = np.zeros((7, 9, 9), np.int16)
    label[1, 2, 8] = 2  # labelled outside the mask, inside the box: kept
    label[0, 0, 0] = 1
    cropped, marked, box = crop_to_nonzero(image, label)
    assert box == ((1, 6), (2, 8), (2, 9))
    assert cropped.shape == (2, 5, 6, 7)
    assert marked[2, 2, 2] == 0 and marked[0, 0, 6] == 2 and marked[1, 0, 6] == -1
    filled = ndimage.binary_fill_holes((image != 0).any(0))[1:6, 2:8, 2:9]
    np.testing.assert_array_equal(marked == -1, ~filled & (label[1:6, 2:8, 2:9] == 0))
    assert label[1, 0, 6] == 0  # the caller's label is not touched


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 999))
def test_hole_filling_is_scipys(shape, seed):
    image = (np.random.default_rng(seed).random((1, *shape)) < 0.5).astype(np.float32)
    _, marked, box = crop_to_nonzero(image, None)
    filled = ndimage.binary_fill_holes(image[0] != 0)
    np.testing.assert_array_equal(marked == 0, filled[tuple(slice(*edge) for edge in box)])


def test_an_image_of_zeros_is_not_cropped():
    cropped, marked, box = crop_to_nonzero(np.zeros((1, 3, 4, 5), np.float32), np.zeros((3, 4, 5), np.int16))
    assert cropped.shape == (1, 3, 4, 5) and box == ((0, 3), (0, 4), (0, 5)) and (marked == -1).all()


def test_normalizations():
    statistics = Intensities(
        mean=10.0, median=9.0, std=4.0, min=0.0, max=30.0, percentile_00_5=1.0, percentile_99_5=25.0
    )
    values = np.array([[[-5.0, 10.0, 20.0, 99.0]]], np.float32)
    mask = np.array([[[-1, 0, 1, 0]]], np.int16)

    def run(name, use_mask=False):
        return SCHEMES[name](values.copy(), mask if use_mask else None, statistics).ravel()

    np.testing.assert_allclose(run("CTNormalization"), [(1 - 10) / 4, 0, 2.5, 15 / 4])
    np.testing.assert_allclose(run("ZScoreNormalization"), (values.ravel() - 31) / values.std(), rtol=1e-6)
    inside = values.ravel()[1:]
    masked = run("ZScoreNormalization", use_mask=True)
    np.testing.assert_allclose(masked, [-5, *(inside - inside.mean()) / inside.std()], rtol=1e-6)
    np.testing.assert_allclose(run("NoNormalization"), values.ravel())
    np.testing.assert_allclose(run("RescaleTo01Normalization"), (values.ravel() + 5) / 104, rtol=1e-6)
    with pytest.raises(ValueError, match="rgb_to_0_1 expects values in 0..255, the image has -5.0"):
        run("RGBTo01Normalization")
    np.testing.assert_allclose(
        SCHEMES["RGBTo01Normalization"](np.full((1, 1, 1), 51.0, np.float32), None, statistics), 0.2
    )
    flat = SCHEMES["ZScoreNormalization"](np.full((2, 2, 2), 7.0, np.float32), None, statistics)
    assert (flat == 0).all()  # a constant image: no division by zero


def test_class_locations_are_numpys_draw():
    label = np.random.default_rng(0).integers(-1, 4, size=(40, 45, 50)).astype(np.int16)
    label[label == 2] = 0
    label[:30] = 1
    located = class_locations(label, {1: (1,), 2: (2,), 3: (3,)})
    random = np.random.RandomState(1234)
    for value in (1, 3):
        every = np.argwhere(label == value)
        count = max(min(10_000, len(every)), math.ceil(0.01 * len(every)))
        np.testing.assert_array_equal(located[value], every[random.choice(len(every), count, replace=False)])
    assert located[2].shape == (0, 3)


def test_wrong_shapes_are_refused():
    plan = plan_for((4, 8, 8), ISOTROPIC)
    entry, geometry = plan.configuration("3d_fullres"), geometry_of((4, 8, 8), ISOTROPIC)
    image = np.ones((1, 4, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"The image has 2 channels, the plan of Toy expects 1 \(MR\)"):
        preprocess_case(np.ones((2, 4, 8, 8), np.float32), geometry, None, plan, entry)
    with pytest.raises(ValueError, match=r"The label has shape \(3, 8, 8\), its image \(4, 8, 8\)"):
        preprocess_case(image, geometry, np.ones((3, 8, 8), np.int16), plan, entry)
    done = preprocess_case(image, geometry, None, plan, entry)
    assert done.label is None


def test_preprocessing_leaves_its_input_alone():
    image = np.random.default_rng(0).normal(size=(1, 6, 7, 8)).astype(np.float32)
    label = np.ones((6, 7, 8), np.int16)
    copies = image.copy(), label.copy()
    plan = plan_for((6, 7, 8), ISOTROPIC)
    preprocess_case(image, geometry_of((6, 7, 8), ISOTROPIC), label, plan, plan.configuration("3d_fullres"))
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(label, copies[1])
