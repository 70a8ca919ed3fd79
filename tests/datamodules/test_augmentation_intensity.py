"""Intensity transforms: against outputs of nnU-Net's libraries, skimage, and what their definitions promise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import stats
from skimage.transform import resize

from umamba.datamodules.augmentation.intensity import RandomBrightness, RandomContrast, RandomGammaWithStatistics
from umamba.datamodules.augmentation.resampling import affine_image, affine_label
from umamba.datamodules.augmentation.resolution import RandomChannelBlur, RandomLowResolution, lower_resolution
from umamba.datamodules.augmentation.spatial import rotation_matrix

GOLDEN = Path(__file__).parents[1] / "golden" / "augmentation.npz"  # origin in augmentation.md beside it
INDEX = np.arange(9 * 10 * 11)
IMAGE = torch.from_numpy((np.sin(INDEX * 0.7) * 2 + np.cos(INDEX * INDEX * 0.013)).reshape(1, 9, 10, 11)).float()
LABEL = torch.from_numpy(((INDEX // 37) % 4).reshape(9, 10, 11).astype(np.int16))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN))


OURS = {
    "contrast_1_2": lambda: RandomContrast().change(IMAGE[0], 1.2),
    "gamma_1_3": lambda: RandomGammaWithStatistics().change(IMAGE[0], 1.3),
    "gamma_1_3_inverted": lambda: RandomGammaWithStatistics(invert=True).change(IMAGE[0], 1.3),
    "blur_0_8": lambda: RandomChannelBlur().change(IMAGE[0], [0.8] * 3),
    "blur_0_6_28": lambda: RandomChannelBlur(rule="2.8").change(IMAGE[0], [0.6] * 3),
    "blur_0_8_28": lambda: RandomChannelBlur(rule="2.8").change(IMAGE[0], [0.8] * 3),
    "low_resolution_0_6_cubic": lambda: lower_resolution(IMAGE[0], 0.6, order=3),
    "low_resolution_0_6_cubic_in_plane": lambda: lower_resolution(IMAGE[0], 0.6, order=3, keep_first=True),
    "low_resolution_0_6_linear": lambda: lower_resolution(IMAGE[0], 0.6, order=1),
}


@pytest.mark.parametrize("name", OURS)
def test_equals_nnunets_library(golden: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(OURS[name]().numpy(), golden[name][0], atol=2e-5)


def test_rotation_and_scaling_equal_nnunets_libraries(golden: dict[str, np.ndarray]) -> None:
    angle = math.radians(25)
    turned = rotation_matrix([-angle, 0, 0]) * 1.2  # batchgenerators multiplies row vectors: the sense is the other one
    cubic = affine_image(IMAGE, turned, (6, 7, 8), 0.0, order=3)
    np.testing.assert_allclose(cubic.numpy(), golden["spatial_21"], atol=2e-5)
    label = affine_label(LABEL[None], turned, (6, 7, 8), -1, cut=True)
    np.testing.assert_array_equal(label.numpy(), golden["spatial_21_label"])
    linear = affine_image(IMAGE, rotation_matrix([angle, 0, 0]) * 1.2, (6, 7, 8), 0.0, order=1)
    np.testing.assert_allclose(linear.numpy(), golden["spatial_28"], atol=2e-5)


@pytest.mark.parametrize("shape", [(20, 28, 20), (33, 41)])
@pytest.mark.parametrize("zoom", [0.5, 0.61, 0.99])
@pytest.mark.parametrize("order", [1, 3])
def test_low_resolution_equals_two_resizes(shape: tuple[int, ...], zoom: float, order: int) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    edges = {"mode": "edge", "anti_aliasing": False}
    small = resize(image.astype(float), [round(n * zoom) for n in shape], order=0, **edges)
    expected = resize(small, shape, order=order, **edges)
    result = lower_resolution(torch.from_numpy(image), zoom, order=order)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def _subject(channels: int = 3, shape: tuple[int, ...] = (12, 14, 10)) -> tio.Subject:
    image = torch.randn((channels, *shape), generator=torch.Generator().manual_seed(0)) * 2 + 1
    label = torch.randint(0, 3, (1, *shape), dtype=torch.int16)
    return tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))


ALL = [
    RandomBrightness(),
    RandomContrast(),
    RandomGammaWithStatistics(),
    RandomGammaWithStatistics(invert=True),
    RandomChannelBlur(channel_p=1),
    RandomChannelBlur(channel_p=1, rule="2.8"),
    RandomLowResolution((12, 14, 10), channel_p=1, zooms=(0.5, 0.8)),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: transform.name)
@pytest.mark.parametrize("shape", [(12, 14, 10), (12, 14, 1)])
def test_channels_change_apart_and_labels_stay(transform: tio.Transform, shape: tuple[int, ...]) -> None:
    subject = _subject(shape=shape)
    subject["image"].data[1] = subject["image"].data[0]
    torch.manual_seed(0)
    result = transform(subject)
    changed = result["image"].data
    assert changed.shape == (3, *shape) and changed.dtype == torch.float32 and changed.isfinite().all()
    assert not torch.equal(changed[0], subject["image"].data[0])
    assert not torch.equal(changed[0], changed[1])  # a draw of its own for each channel
    assert torch.equal(result["label"].data, subject["label"].data)


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: transform.name)
def test_a_constant_channel_stays_finite(transform: tio.Transform) -> None:
    subject = tio.Subject(image=tio.ScalarImage(tensor=torch.full((1, 12, 14, 10), 3.0)))
    result = transform(subject)["image"].data
    expected = result.mean() if isinstance(transform, RandomBrightness) else torch.tensor(3.0)
    torch.testing.assert_close(result, expected.expand_as(result))


@pytest.mark.parametrize("invert", [False, True])
def test_gamma_keeps_mean_deviation_and_order(invert: bool) -> None:
    channel = _subject(1)["image"].data[0]
    changed = RandomGammaWithStatistics(invert=invert).change(channel, 0.7)
    torch.testing.assert_close(torch.stack(torch.std_mean(changed)), torch.stack(torch.std_mean(channel)))
    order = channel.flatten().argsort()
    assert (changed.flatten()[order].diff() >= 0).all()
    # An exponent below 1 stretches the dark end; on the negative image that is the bright end.
    skew = stats.skew(changed.flatten()) - stats.skew(channel.flatten())
    assert (skew > 0) == invert


def test_gamma_of_a_large_patch_is_as_in_float64() -> None:
    channel = torch.randn(40, 224, 192, generator=torch.Generator().manual_seed(0))
    gamma = RandomGammaWithStatistics()
    error = gamma.change(channel.clone(), 0.7).double() - gamma.change(channel.double(), 0.7)
    assert float(error.abs().max()) < 4e-6  # 9e-6 where one sum in float32 takes all squares


def test_contrast_keeps_the_range_and_brightness_does_not() -> None:
    channel = _subject(1)["image"].data[0]
    assert RandomContrast().change(channel, 1.25).aminmax() == channel.aminmax()
    torch.testing.assert_close(RandomContrast().change(channel, 0.75).std(), channel.std() * 0.75)
    torch.testing.assert_close(RandomBrightness().change(channel, 1.25), channel * 1.25)


def test_rule_28_draws_a_width_for_each_axis() -> None:
    impulse = torch.zeros(9, 9, 9)
    impulse[4, 4, 4] = 1
    for rule, equal in (("2.1", True), ("2.8", False)):
        transform = RandomChannelBlur(rule=rule)
        blurred = transform.change(impulse, transform.draw_change(3))
        assert torch.allclose(blurred[:, 4, 4], blurred[4, :, 4]) == equal


@pytest.mark.parametrize("transform_class", [RandomChannelBlur, RandomLowResolution])
def test_each_channel_has_its_own_coin(transform_class: type) -> None:
    arguments = {"patch_size": (6, 6, 6)} if transform_class is RandomLowResolution else {}
    transform = transform_class(channel_p=0.5, **arguments)
    subject = _subject(4, (6, 6, 6))
    torch.manual_seed(0)
    changed = [
        not torch.equal(before, after)
        for _ in range(200)
        for before, after in zip(subject["image"].data, transform(subject)["image"].data, strict=True)
    ]
    unchanged_zoom = 0.5 / 6 if transform_class is RandomLowResolution else 0  # zooms above 11/12 round to size 6
    assert abs(np.mean(changed) - 0.5 * (1 - 2 * unchanged_zoom)) < 0.09  # five standard deviations


def test_low_resolution_leaves_the_first_axis_of_an_anisotropic_patch() -> None:
    image = torch.zeros(4, 24, 24)
    image[1] = torch.randn(24, 24)
    others = [0, 2, 3]
    in_plane = RandomLowResolution((4, 24, 24)).change(image, 0.5)
    assert in_plane[1].any() and not in_plane[others].any()
    assert RandomLowResolution((24, 24, 24)).change(image, 0.5)[others].any()


def test_torchios_noise_is_nnunets() -> None:
    """One standard deviation for all channels, drawn from U(0, 0.1)."""
    torch.manual_seed(0)
    transform = tio.RandomNoise(std=(0.0, 0.1))
    quiet = tio.Subject(image=tio.ScalarImage(tensor=torch.zeros(2, 30, 30, 30)))
    deviations = np.array([transform(quiet)["image"].data.std(dim=(1, 2, 3)).tolist() for _ in range(60)])
    np.testing.assert_allclose(deviations[:, 0], deviations[:, 1], rtol=0.06)
    assert stats.kstest(deviations[:, 0], stats.uniform(0, 0.1).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomBrightness((1.2, 0.8)), "RandomBrightness needs a range of factors"),
        (lambda: RandomGammaWithStatistics((-1, 1)), "RandomGammaWithStatistics needs a range of factors"),
        (lambda: RandomChannelBlur((-1, 1)), "sigmas must be a range"),
        (lambda: RandomLowResolution((8, 8), zooms=(0.5, 2)), r"zooms must be a range \(low, high\) within \(0, 1\]"),
        (lambda: RandomLowResolution((8, 8), order=2), "order must be 1"),
        (lambda: RandomChannelBlur(rule="2"), 'rule must be "2.1" or "2.8", it is .2.'),
        (lambda: RandomChannelBlur(channel_p=1.5), "Probability must be a number in"),
    ],
)
def test_impossible_parameters(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
