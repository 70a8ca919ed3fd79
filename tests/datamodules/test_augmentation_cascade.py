"""Laws of what a cascade's augmentation does to the previous stage's label map."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba.datamodules.augmentation import previous_stage as module
from umamba.datamodules.augmentation.previous_stage import (
    PREVIOUS,
    RandomBinaryOperator,
    RandomComponentRemoval,
    with_cascade_transforms,
)
from umamba.datamodules.augmentation.spatial import RandomMirror, RandomRotationScaling

SHAPE = (12, 14, 16)


def blobs(seed: int, classes: int = 3, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """(1, *shape) int16 with a few lumps of each class, and -1 where there is no image."""
    noise = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    edges = np.quantile(noise, np.linspace(0.4, 1, classes + 1))
    label = np.digitize(noise, edges[:-1]).astype(np.int16)
    label[:, :2] = -1
    return torch.from_numpy(label)[None]


def subject_of(previous: torch.Tensor) -> tio.Subject:
    image = torch.randn(1, *previous.shape[1:], generator=torch.Generator().manual_seed(1))
    return tio.Subject(
        image=tio.ScalarImage(tensor=image),
        label=tio.LabelMap(tensor=previous.clone()),
        **{PREVIOUS: tio.LabelMap(tensor=previous.clone())},
    )


def changed(transform: tio.Transform, previous: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    subject = subject_of(previous)
    before = subject.image.data.clone()
    after = transform(subject)
    assert torch.equal(after.image.data, before) and torch.equal(after.label.data, previous)  # nothing else changes
    return after[PREVIOUS].data


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 2**20))
def test_operators_keep_shape_type_and_the_labels_that_there_are(seed: int, draw: int) -> None:
    previous = blobs(seed)
    after = changed(RandomBinaryOperator(p=1, label_p=1), previous, draw)
    assert after.shape == previous.shape and after.dtype == previous.dtype
    assert set(after.unique().tolist()) <= {*previous.unique().tolist(), 0}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 2**20), st.floats(0.01, 0.5))
def test_removal_takes_whole_small_components_and_nothing_else(seed: int, draw: int, most: float) -> None:
    previous = blobs(seed)
    after = changed(RandomComponentRemoval(p=1, label_p=1, most=most), previous, draw)
    gone = (after != previous)[0].numpy()
    assert not after[0].numpy()[gone].any()  # background, never another label
    for value in previous.unique().tolist():
        parts, count = ndi.label(previous[0].numpy() == value, structure=np.ones((3, 3, 3)))
        touched = set(np.unique(parts[gone])) - {0}
        assert len(touched) <= (value > 0)  # at most one of a label
        for part in touched:
            assert gone[parts == part].all() and (parts == part).sum() < most * parts.size
        if value > 0 and any(0 < (parts == part).sum() < most * parts.size for part in range(1, count + 1)):
            assert touched


@pytest.mark.parametrize("kind", [RandomBinaryOperator, RandomComponentRemoval])
@pytest.mark.parametrize("off", [{"p": 0}, {"p": 1, "label_p": 0}])
def test_probability_0_changes_nothing(kind, off) -> None:
    for seed in range(5):
        assert torch.equal(changed(kind(**off), blobs(seed), seed), blobs(seed))


@pytest.mark.parametrize("kind", [RandomBinaryOperator, RandomComponentRemoval])
def test_probability_1_changes_something_and_the_seed_decides_what(kind) -> None:
    transform, previous = kind(p=1, label_p=1), blobs(0)
    made = [changed(transform, previous, seed) for seed in (0, 0, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], previous)
    assert any(not torch.equal(made[0], other) for other in made[2:])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20), st.floats(1, 5))
def test_operators_are_those_of_a_ball(seed: int, radius: float) -> None:
    """Against scipy's, whose structure is given whole; beyond the array nothing is eroded, as nnU-Net has it."""
    mask = blobs(seed)[0].numpy() == 2
    reach = int(radius)
    offsets = np.mgrid[tuple(slice(-reach, reach + 1) for _ in range(3))]
    ball = (offsets**2).sum(0) <= radius**2

    def dilate(one):
        return ndi.binary_dilation(one, ball)

    def erode(one):
        return ndi.binary_erosion(one, ball, border_value=1)

    for made, expected in [
        (module.dilated(mask, radius), dilate(mask)), (module.eroded(mask, radius), erode(mask)),
        (module.closed(mask, radius), erode(dilate(mask))), (module.opened(mask, radius), dilate(erode(mask))),
    ]:  # fmt: skip
        np.testing.assert_array_equal(made, expected)


def test_a_part_is_enough_for_an_operator(monkeypatch) -> None:
    """The operators see the label's surroundings only; that gives what the whole patch would."""
    for seed in range(8):
        previous, transform = blobs(seed, shape=(9, 20, 22)), RandomBinaryOperator(p=1, label_p=1)
        part = changed(transform, previous, seed)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_around", lambda mask, margin: tuple(slice(0, n) for n in mask.shape))
            assert torch.equal(part, changed(transform, previous, seed))


def test_a_label_that_another_one_has_covered_is_left() -> None:
    previous = torch.zeros(1, *SHAPE, dtype=torch.int16)
    previous[0, 6, 6, 6], previous[0, 6, 6, 7] = 1, 2
    for seed in range(20):
        changed(RandomBinaryOperator(p=1, label_p=1, radii=(3, 3)), previous, seed)


def test_an_empty_map_and_a_full_one_stay() -> None:
    for value in (0, -1, 1):
        previous = torch.full((1, *SHAPE), value, dtype=torch.int16)
        for seed in range(6):
            assert torch.equal(changed(RandomBinaryOperator(p=1, label_p=1), previous, seed), previous)
            assert torch.equal(changed(RandomComponentRemoval(p=1, label_p=1), previous, seed), previous)


def test_rotation_and_mirroring_treat_it_as_labels() -> None:
    previous = blobs(3)
    transforms = [RandomRotationScaling(patch_size=SHAPE, rotation_p=1, scaling_p=1), RandomMirror()]
    for seed in range(4):
        torch.manual_seed(seed)
        subject = tio.Compose(transforms)(subject_of(previous))
        assert torch.equal(subject[PREVIOUS].data, subject.label.data)  # the same map, moved in the same way
        assert set(subject[PREVIOUS].data.unique().tolist()) <= {-1, 0, 1, 2, 3}


def test_they_follow_an_augmentation_that_has_none() -> None:
    mirror, own = RandomMirror(), RandomBinaryOperator(p=0)
    assert [type(one) for one in with_cascade_transforms([mirror])] == [
        RandomMirror, RandomBinaryOperator, RandomComponentRemoval,
    ]  # fmt: skip
    assert with_cascade_transforms([own, mirror]) == [own, mirror]
    assert with_cascade_transforms([]) == []


@pytest.mark.parametrize("radii", [(0.5, 2), (3, 2), (1, float("inf"))])
def test_radii_that_are_no_range_are_refused(radii) -> None:
    with pytest.raises(ValueError, match="radii must be a range"):
        RandomBinaryOperator(radii=radii)


@pytest.mark.parametrize("most", [0, 1.5])
def test_a_share_that_is_none_is_refused(most) -> None:
    with pytest.raises(ValueError, match="share of the patch"):
        RandomComponentRemoval(most=most)
