"""A plan whose networks train in seconds."""

from __future__ import annotations

from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription


def tiny_plan() -> Plan:
    """A plan of tiny cases, 3 classes, 2 channels."""
    fingerprint = Fingerprint(
        spacings=((1.0, 1.0, 1.0),) * 5,
        shapes_after_crop=((16, 16, 16),) * 5,
        intensities=(Intensities(mean=0, median=0, std=1, min=-3, max=3, percentile_00_5=-2, percentile_99_5=2),) * 2,
        median_relative_size=1.0,
    )
    description = DatasetDescription(
        name="Tiny",
        channel_names=("MR", "MR2"),
        labels={"background": 0, "ball": 1, "cube": 2},
        file_ending=".nii.gz",
        num_training=5,
    )
    return plan_dataset(fingerprint, description, PlannerOptions(base_features=4))
