"""Which axes a training mirrored, by its config."""

from __future__ import annotations

from typing import Any

import pytest

from umamba.inference.members import trained_mirror_axes

RANDOM_MIRROR = {"_target_": "umamba.datamodules.augmentation.spatial.RandomMirror"}
RANDOM_FLIP = {"_target_": "torchio.RandomFlip"}


@pytest.mark.parametrize(
    ("augmentation", "dims", "axes"),
    [
        ({"mirror": RANDOM_MIRROR}, 3, (0, 1, 2)),
        ({"mirror": RANDOM_MIRROR | {"axes": None}}, 2, (0, 1)),  # the third axis of a 2D subject is a dummy
        ([RANDOM_MIRROR | {"axes": [2, 0]}], 3, (0, 2)),
        ([RANDOM_MIRROR | {"axes": [2]}], 2, ()),
        ([RANDOM_MIRROR | {"axis_p": 0}], 3, ()),
        ([RANDOM_MIRROR | {"axis_p": 0.0, "axes": [1]}], 3, ()),
        ([RANDOM_MIRROR | {"p": 0}], 3, ()),
        ([RANDOM_FLIP], 3, (0,)),
        ([RANDOM_FLIP | {"axes": [1, 2], "flip_probability": 0.3}], 3, (1, 2)),
        ([RANDOM_FLIP | {"axes": 1, "flip_probability": 0}], 3, ()),
        ([RANDOM_FLIP | {"_target_": "torchio.transforms.RandomFlip", "axes": 1}], 3, (1,)),
        ([{"_target_": "torchio.OneOf", "transforms": [RANDOM_MIRROR | {"axes": [1]}, RANDOM_FLIP]}], 3, (0, 1)),
        ([{"_target_": "torchio.RandomNoise", "axes": [0]}], 3, ()),
        ({}, 3, ()),
        (None, 3, ()),
    ],
)
def test_axes_of_the_training(augmentation: Any, dims: int, axes: tuple[int, ...]) -> None:
    assert trained_mirror_axes({"data": {"augmentation": augmentation}}, dims) == axes


def test_axes_by_anatomy_cannot_be_known() -> None:
    with pytest.raises(ValueError, match="Left.*mirror=false"):
        trained_mirror_axes({"data": {"augmentation": [RANDOM_FLIP | {"axes": ["Left"]}]}}, 3)


def test_a_config_without_data_mirrored_nothing() -> None:
    assert trained_mirror_axes({"model": {}}, 3) == ()
