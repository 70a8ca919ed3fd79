"""Preprocessing on tensors: what `preprocess_case` and skimage make of the same image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from tests.inference.small import make_plan
from umamba.inference.preprocess import SCHEMES, preprocess_on, preprocess_tensors, resample_volume
from umamba.planning.intensities import Intensities
from umamba.planning.normalization import SCHEMES as OF_PLANNING
from umamba.planning.preprocess import crop_case, preprocess_case
from umamba.raw.readers import Geometry

CPU = torch.device("cpu")
STATISTICS = Intensities(
    mean=40.0, median=38.0, std=25.0, min=0.0, max=200.0, percentile_00_5=5.0, percentile_99_5=180.0
)


def geometry_of(shape, spacing) -> Geometry:
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Geometry(spacing=tuple(spacing), origin=(0.0,) * 3, direction=direction, shape=tuple(shape), dimension=3)


def difference(a: torch.Tensor, b: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    assert tuple(a.shape) == b.shape and a.dtype == torch.float32
    return float(np.abs(a.numpy() - b).max() / max(np.abs(b).max(), 1e-30))


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 15)] * 3), target=st.tuples(*[st.integers(1, 17)] * 3), seed=st.integers(0, 99))
def test_volumes_are_resized_as_by_skimage(shape, target, seed) -> None:
    volume = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    got = resample_volume(torch.from_numpy(volume), target, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    expected = resize(volume.astype(np.float64), target, order=3, mode="edge", anti_aliasing=False, clip=True)
    assert difference(got, expected) < 1e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("size", "wanted"), [(7, 12), (12, 7), (7, 7), (1, 5)])
def test_thick_slices_are_resized_one_by_one(axis, size, wanted) -> None:
    shape, target = [9, 9, 9], [14, 14, 14]
    shape[axis], target[axis] = size, wanted
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    volume = np.random.default_rng(axis).normal(size=shape).astype(np.float32)
    got = resample_volume(torch.from_numpy(volume), target, spacing, (1.0, 1.0, 1.0))
    nearest = np.clip(np.floor((np.arange(wanted) + 0.5) * (size / wanted)), 0, size - 1).astype(int)
    slices = [
        resize(plane.astype(np.float64), (14, 14), order=3, mode="edge", anti_aliasing=False, clip=True)
        for plane in np.moveaxis(volume, axis, 0)[nearest]
    ]
    assert difference(got, np.moveaxis(np.stack(slices), 0, axis)) < 1e-5


def test_long_axes_are_the_same() -> None:
    volume = np.random.default_rng(0).normal(size=(2, 3, 900)).astype(np.float32)
    got = resample_volume(torch.from_numpy(volume), (2, 3, 1000), (1.0,) * 3, (1.0,) * 3)
    expected = resize(volume.astype(np.float64), (2, 3, 1000), order=3, mode="edge", anti_aliasing=False, clip=True)
    assert difference(got, expected) < 1e-5


def test_tf32_of_the_network_does_not_reach_the_splines(monkeypatch) -> None:
    seen = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: seen.append(torch.get_float32_matmul_precision()) or product(a, b)
    )
    torch.set_float32_matmul_precision("high")
    try:
        resample_volume(torch.rand(3, 4, 5), (4, 5, 6), (1.0,) * 3, (1.0,) * 3)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("scheme", sorted(OF_PLANNING))
def test_cases_are_those_of_planning(scheme, use_mask) -> None:
    random = np.random.default_rng(5)
    image = np.zeros((2, 12, 15, 20), np.float32)
    image[:, 2:-3, 4:, 1:-2] = random.uniform(1, 250, (2, 7, 11, 17))
    image[:, 5:7, 6:9, 5:8] = 0  # a hole, which counts as inside
    image[:, 2:5, 4:7, 1:4] = 0  # a corner, which does not
    plan = make_plan(("a", "b"), forward=(2, 0, 1))
    (configuration,) = plan.configurations.values()
    masked = use_mask and scheme == "ZScoreNormalization"
    configuration = dataclasses.replace(
        configuration, normalization=(scheme,) * 2, use_mask_for_norm=(masked, False), spacing=(1.4, 1.2, 0.9)
    )
    plan = dataclasses.replace(plan, intensities=(STATISTICS,) * 2)
    geometry = geometry_of(image.shape[1:], (1.0, 1.1, 1.3))
    expected = preprocess_case(image, geometry, None, plan, configuration)
    before = image.copy()
    cropped, mask, properties = crop_case(image, geometry, None, plan, configuration)
    tensor = None if mask is None else torch.from_numpy(mask)
    got = preprocess_tensors(cropped, tensor, properties, plan, configuration, CPU)
    assert (mask is not None) == masked and properties == expected.properties
    assert difference(got, expected.data) < 1e-5
    assert np.array_equal(image, before)
    data, again = preprocess_on(CPU, image, geometry, plan, configuration)
    assert np.array_equal(data.numpy(), expected.data) and again == properties


def test_every_scheme_is_there_and_pictures_are_checked() -> None:
    assert SCHEMES.keys() == OF_PLANNING.keys()
    with pytest.raises(ValueError, match=r"rgb_to_0_1 expects values in 0\.\.255, the image has 0\.0\.\.300\.0"):
        SCHEMES["RGBTo01Normalization"](torch.tensor([0.0, 300.0]), None, STATISTICS)
