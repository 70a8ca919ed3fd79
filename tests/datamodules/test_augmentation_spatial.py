"""Rotation and scaling: against scipy's map_coordinates voxel by voxel, nnU-Net's literals, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
import torchio as tio
from scipy import stats

from umamba.datamodules.augmentation.draws import around_one
from umamba.datamodules.augmentation.resampling import affine_image, affine_label, centre_crop
from umamba.datamodules.augmentation.spatial import (
    RandomMirror,
    RandomRotationScaling,
    default_degrees,
    enlarged_patch_size,
    rotation_matrix,
)

# Printed by nnunetv2 2.1.2's get_patch_size (2.8.1 agrees) with scale range (0.85, 1.25), rotations of +-30 degrees
# about each axis, +-180 about the first (axis 0 put back as its trainer does), 2D +-180, and +-15 for long patches.
ENLARGED = {
    (128, 128, 128): (205, 205, 205),
    (80, 192, 160): (194, 289, 210),
    (40, 56, 40): (73, 80, 64),
    (56, 40, 48): (80, 68, 81),
    (96, 160, 144): (191, 247, 203),
    (64, 100, 190): (124, 213, 231),
    (40, 224, 192): (40, 263, 263),
    (512, 512): (602, 602),
    (448, 512): (602, 602),
    (384, 640): (631, 752),
    (640, 384): (844, 451),
}


@pytest.mark.parametrize(("patch_size", "expected"), ENLARGED.items())
def test_enlarged_patch_is_nnunets(patch_size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert enlarged_patch_size(patch_size, default_degrees(patch_size)) == expected


@pytest.mark.parametrize(
    ("patch_size", "degrees"),
    [((128, 128, 128), 30), ((64, 192, 192), 30), ((63, 192, 192), 180), ((512, 512), 180), ((384, 640), 15)],
)
def test_largest_rotation_depends_on_the_patch(patch_size: tuple[int, ...], degrees: float) -> None:
    assert default_degrees(patch_size) == degrees


def _blobs(shape: tuple[int, ...], labels: int, rng: np.random.Generator) -> np.ndarray:
    fields = ndi.gaussian_filter(rng.normal(size=(labels, *shape)), [0] + [2] * len(shape))
    return fields.argmax(axis=0).astype(np.int16)


def _offsets(shape: tuple[int, ...], matrix: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Coordinates (d, *size) in an image of `shape`, written out from the definition."""
    centred = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij"))
    centre = np.reshape([(n - 1) / 2 for n in shape], (-1,) + (1,) * len(size))
    return np.einsum("ij,j...->i...", matrix, centred) + centre


CASES = [((21, 24, 19), (12, 16, 12), [0.4, -0.3, 0.2]), ((30, 33), (20, 24), [1.2])]


@pytest.mark.parametrize(("shape", "size", "angles"), CASES)
@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_cubic_image_and_labels_equal_map_coordinates(shape, size, angles, scale) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    label = _blobs(shape, 4, rng)
    matrix = rotation_matrix(angles) * scale
    where = _offsets(shape, matrix, size)
    expected = [ndi.map_coordinates(c.astype(float), where, order=3, mode="constant") for c in image]
    resampled = affine_image(torch.from_numpy(image), matrix, size, 0.0, order=3)
    np.testing.assert_allclose(resampled.numpy(), expected, atol=1e-5)
    indicators = np.stack(
        [ndi.map_coordinates((label == k).astype(float), where, order=1, mode="constant") for k in range(4)]
    )
    winner = np.where(indicators.sum(axis=0) > 0, indicators.argmax(axis=0), -1)
    assert (winner == -1).any() == (scale > 1)  # the border is part of the comparison
    result = affine_label(torch.from_numpy(label)[None], matrix, size, -1, cut=True)[0].numpy()
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, winner)


@pytest.mark.parametrize(("shape", "size", "angles"), CASES)
def test_linear_image_and_labels_blend_with_the_padding(shape, size, angles) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    label = _blobs(shape, 3, rng)
    matrix = rotation_matrix(angles) * 1.4
    where = _offsets(shape, matrix, size)
    # grid-constant: the image continued by the padding, and interpolated as one.
    sample = {"order": 1, "mode": "grid-constant"}
    expected = [ndi.map_coordinates(c.astype(float), where, cval=2.5, **sample) for c in image]
    resampled = affine_image(torch.from_numpy(image), matrix, size, 2.5, order=1)
    np.testing.assert_allclose(resampled.numpy(), expected, atol=1e-4)
    scores = [
        ndi.map_coordinates((label == k).astype(float), where, cval=float(k < 0), **sample) for k in (-1, 0, 1, 2)
    ]
    winner = np.argmax(scores, axis=0) - 1
    result = affine_label(torch.from_numpy(label)[None], matrix, size, -1, cut=False)[0].numpy()
    assert (winner == -1).any() and (result != winner).mean() < 1e-3  # but for ties that round differently


def test_a_quarter_turn_is_exact() -> None:
    image = torch.randn(1, 9, 9)
    label = torch.randint(0, 5, (2, 9, 9), dtype=torch.int16)
    matrix = rotation_matrix([math.pi / 2])
    for order in (1, 3):
        turned = affine_image(image, matrix, (9, 9), 0.0, order=order)
        torch.testing.assert_close(turned, torch.rot90(image, -1, (1, 2)), atol=1e-4, rtol=0)
    assert torch.equal(affine_label(label, matrix, (9, 9), -1, cut=False), torch.rot90(label, -1, (1, 2)))


def test_centre_crop_cuts_and_pads() -> None:
    data = torch.arange(12.0).reshape(1, 2, 6)
    expected = torch.tensor([[[-1.0] * 2, [2, 3], [8, 9], [-1] * 2]])
    assert torch.equal(centre_crop(data, (4, 2), -1.0), expected)


def _subject(shape: tuple[int, ...], channels: int = 1) -> tio.Subject:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((channels, *shape), generator=generator)
    label = torch.randint(0, 3, (1, *shape), generator=generator, dtype=torch.int16)
    return tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))


@pytest.mark.parametrize(
    ("patch_size", "input_shape", "output_shape"),
    [
        ((12, 10, 8), (20, 20, 20), (12, 10, 8)),
        ((12, 10), (20, 20, 1), (12, 10, 1)),
        ((4, 16, 16), (4, 20, 20), (4, 16, 16)),
    ],
)
@pytest.mark.parametrize("order", [1, 3])
def test_any_patch_comes_out_in_its_size(patch_size, input_shape, output_shape, order) -> None:
    for probabilities in ((0, 0), (1, 0), (0, 1), (1, 1)):
        transform = RandomRotationScaling(
            patch_size, rotation_p=probabilities[0], scaling_p=probabilities[1], order=order
        )
        result = transform(_subject(input_shape, channels=2))
        assert result["image"].data.shape == (2, *output_shape) and result["image"].data.dtype == torch.float32
        assert result["label"].data.shape == (1, *output_shape) and result["label"].data.dtype == torch.int16


def test_nothing_drawn_is_the_centre_crop() -> None:
    subject = _subject((20, 20, 20))
    result = RandomRotationScaling((12, 10, 8), rotation_p=0, scaling_p=0)(subject)
    assert torch.equal(result["image"].data, subject["image"].data[:, 4:16, 5:15, 6:14])


def test_slices_of_an_anisotropic_patch_do_not_mix() -> None:
    subject = _subject((4, 24, 24))
    subject["image"].data[:, 1:] = 0
    subject["label"].data[:, 1:] = 0
    result = RandomRotationScaling((4, 16, 16), rotation_p=1, scaling_p=1)(subject)
    assert result["image"].data[:, 0].abs().max() > 0.1 and result["label"].data[:, 0].max() > 0
    assert not result["image"].data[:, 1:].any() and not result["label"].data[:, 1:].clamp(min=0).any()


def test_image_and_label_move_together() -> None:
    label = torch.zeros(1, 40, 40, 40, dtype=torch.int16)
    label[:, 12:24, 15:30, 18:28] = 1
    subject = tio.Subject(image=tio.ScalarImage(tensor=label.float()), label=tio.LabelMap(tensor=label))
    for seed in range(5):
        torch.manual_seed(seed)
        result = RandomRotationScaling((28, 28, 28), rotation_p=1, scaling_p=1, order=1)(subject)
        inside = result["label"].data == 1
        assert inside.any() and (result["image"].data[inside] >= 0.5 - 1e-5).all()
        assert (result["image"].data[~inside] <= 0.5 + 1e-5).all()


def test_draws_have_nnunets_probabilities() -> None:
    torch.manual_seed(0)
    transform = RandomRotationScaling((40, 40, 40))
    drawn = [transform.draw() for _ in range(4000)]
    changed = [m for m in drawn if m is not None]
    assert abs(len(changed) / 4000 - (1 - 0.8**2)) < 0.04  # five standard deviations
    scales = np.array([np.linalg.det(m) ** (1 / 3) for m in changed])
    scaled = scales[np.abs(scales - 1) > 1e-9]
    assert abs(len(scaled) / 4000 - 0.2) < 0.032
    assert scaled.min() >= 0.7 and scaled.max() <= 1.4
    rotations = [m / s for m, s in zip(changed, scales, strict=True)]
    about_last = np.degrees([math.atan2(m[1, 0], m[0, 0]) for m in rotations])
    assert np.abs(about_last).max() <= 30 and np.abs(about_last).max() > 28


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 2, 1)])
def test_every_axis_is_mirrored_half_of_the_time(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    data = torch.arange(float(math.prod(shape))).reshape(1, *shape)
    subject = tio.Subject(image=tio.ScalarImage(tensor=data), label=tio.LabelMap(tensor=data.to(torch.int16)))
    first = []
    for _ in range(400):
        result = RandomMirror()(subject)
        assert torch.equal(result["image"].data, result["label"].data.float())
        first.append(int(result["image"].data.flatten()[0]))  # the corner that came first names the mirrored axes
    counts = np.bincount(first, minlength=math.prod(shape))
    assert len(counts) == math.prod(shape) and stats.chisquare(counts).pvalue > 0.01
    only = RandomMirror(axis_p=1, axes=[1])(subject)
    assert torch.equal(only["image"].data, data.flip(2))


def test_half_of_the_factors_lie_below_one() -> None:
    torch.manual_seed(0)
    factors = np.array([around_one(0.7, 1.4) for _ in range(4000)])
    assert abs((factors < 1).mean() - 0.5) < 0.04
    assert abs(factors[factors < 1].mean() - 0.85) < 0.01 and abs(factors[factors >= 1].mean() - 1.2) < 0.015
    assert all(0.2 <= around_one(0.2, 0.5) <= 0.5 and 2 <= around_one(2, 3) <= 3 for _ in range(100))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": (8,)}, "2 or 3 positive numbers"),
        ({"patch_size": (8, 8), "order": 2}, "must be 1 .linear. or 3 .cubic., it is 2"),
        ({"patch_size": (8, 8), "scales": (0, 1)}, "range of positive factors"),
        ({"patch_size": (8, 8), "rotation_p": 2}, "Probability must be a number in"),
    ],
)
def test_impossible_parameters(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomRotationScaling(**arguments)


def test_an_axis_that_is_none() -> None:
    with pytest.raises(ValueError, match="axes must be among 0, 1 and 2"):
        RandomMirror(axes=[3])
