"""Images of other values than the training are predicted and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.inference.small import make_plan, save_checkpoint, write_image
from umamba.inference.doubts import strange_values
from umamba.inference.predictor import Predictor
from umamba.planning.intensities import Intensities
from umamba.planning.plan import Plan

HU = Intensities(
    mean=80.0, median=90.0, std=140.0, min=-900.0, max=1200.0, percentile_00_5=-160.0, percentile_99_5=240.0
)


def plan_of(*schemes: str) -> Plan:
    plan = make_plan(channels=tuple(f"channel_{number}" for number in range(len(schemes))))
    (one,) = plan.configurations.values()
    changed = dataclasses.replace(one, normalization=schemes)
    return dataclasses.replace(plan, intensities=(HU,) * len(schemes), configurations={one.name: changed})


def said_of(plan: Plan, *channels: np.ndarray) -> str:
    (configuration,) = plan.configurations.values()
    return strange_values(np.stack(channels).astype(np.float32), plan, configuration, ["a_0000", "a_0001"])


CT = np.linspace(-1024, 1500, 60).reshape(3, 4, 5)
FAT_TO_MUSCLE = np.linspace(-100, 60, 60).reshape(3, 4, 5)


@pytest.mark.parametrize("image", [CT, FAT_TO_MUSCLE, FAT_TO_MUSCLE + 90])
def test_ct_that_the_network_sees_is_not_spoken_of(image: np.ndarray) -> None:
    assert said_of(plan_of("CTNormalization"), image) == ""


@pytest.mark.parametrize("image", [(CT + 1024) / 2524, CT - 3000, CT + 3000, CT / 100, CT + 1024])
def test_ct_that_was_scaled_or_moved_away_is_named(image: np.ndarray) -> None:
    said = said_of(plan_of("CTNormalization", "CTNormalization"), CT, image)
    assert said.startswith("a_0001 (channel channel_1) holds values of") and "-160 to 240" in said
    assert said_of(plan_of("ZScoreNormalization"), image) == ""


@pytest.mark.parametrize("scheme", ["CTNormalization", "ZScoreNormalization", "NoNormalization"])
def test_a_single_value_is_named(scheme: str) -> None:
    said = "a_0000 (channel channel_0) holds the value 0 alone; foreground of the training held -900 to 1200."
    assert said_of(plan_of(scheme), 0 * CT) == said


def test_a_channel_that_held_one_value_in_the_training_too_is_not_spoken_of() -> None:
    one = dataclasses.replace(HU, mean=2.0, std=0.0, min=2.0, max=2.0, percentile_00_5=2.0, percentile_99_5=2.0)
    plan = dataclasses.replace(plan_of("ZScoreNormalization", "NoNormalization"), intensities=(HU, one))
    assert said_of(plan, CT, 0 * CT + 2) == ""
    assert "a_0001 (channel channel_1) holds the value 3 alone; foreground of the training held 2 to 2." in said_of(
        plan, CT, 0 * CT + 3
    )


def test_cases_are_predicted_and_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan()), "cpu")
    for seed, name in enumerate("abc"):
        path = write_image(tmp_path / "images" / f"{name}_0000.nii.gz", seed=seed)
        if name != "a":
            sitk.WriteImage(0 * sitk.ReadImage(path), path)
    empty = sitk.ReadImage(path)
    assert len(predictor.segment_files(tmp_path / "images", tmp_path / "out")) == 3
    (line,) = [record.getMessage() for record in caplog.records if "value 0 alone" in record.getMessage()]
    assert line.startswith("2 case(s) have values that seem unlike those of the training") and "b_0000" in line
    caplog.clear()
    predictor.segment(empty)
    predictor.segment(sitk.GetArrayFromImage(empty), (1.0, 1.0, 1.0))
    assert caplog.text.count("The image (channel MR) holds the value 0 alone;") == 2
