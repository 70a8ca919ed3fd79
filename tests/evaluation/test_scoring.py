"""Scoring is checked when it is made, is its own, and travels to other processes."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from umamba.evaluation.scoring import Labelling, Scoring, check_tolerance_names
from umamba.raw.organs import ABDOMEN_TOLERANCES

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def test_tolerances_are_one_for_each_class_and_float() -> None:
    assert Scoring(labels=LABELS, file_ending=".nii.gz", tolerance=2).tolerances == {"liver": 2.0, "spleen": 2.0}
    by_name = Scoring(labels=LABELS, file_ending=".nii.gz", tolerance={"spleen": 1, "liver": 3, "kidney": 9})
    assert by_name.tolerances == {"liver": 3.0, "spleen": 1.0} and type(by_name.tolerances["liver"]) is float
    with pytest.raises(ValueError, match="nsd_tolerance names kidney; the classes are liver, spleen"):
        check_tolerance_names(by_name.tolerance, LABELS)
    check_tolerance_names({"liver": 1.0}, LABELS)
    assert Scoring(labels=LABELS, file_ending=".png", task="instances", tolerance=2).tolerances == {}


def test_it_keeps_what_it_was_made_of() -> None:
    labels, tolerance = dict(LABELS), OmegaConf.create({"liver": "${other}", "spleen": 1.0, "other": 2.0})
    scoring = Scoring(labels=labels, file_ending=".nii.gz", tolerance=tolerance)
    labels["liver"], tolerance.spleen = 9, 9.0
    assert scoring.foreground == {"liver": 1, "spleen": 2} and scoring.tolerances == {"liver": 2.0, "spleen": 1.0}
    assert pickle.loads(pickle.dumps(scoring)) == scoring and type(scoring.tolerance) is dict
    with pytest.raises(FrozenInstanceError):
        scoring.protocol = "paper"  # type: ignore[misc]


def test_a_data_set_says_labels_ending_and_what_is_ignored() -> None:
    scoring = Scoring.of(SimpleNamespace(labels=LABELS, regions=(), ignore_label=3, file_ending=".nrrd"), tolerance=1.0)
    assert (scoring.labels, scoring.ignore_label, scoring.file_ending) == (LABELS, 3, ".nrrd")
    assert scoring.reference_ending == ".nrrd"
    cells = SimpleNamespace(labels=LABELS, regions=(), ignore_label=None, file_ending=".png")
    cells = Scoring.of(cells, task="instances")
    assert cells.reference_ending == ".tif"


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), True, "2", None, {"liver": 1.0}])
def test_what_is_no_tolerance(wrong: object) -> None:
    with pytest.raises(ValueError, match="NSD needs a tolerance >= 0"):
        Scoring(labels=LABELS, file_ending=".nii.gz", tolerance=wrong)  # type: ignore[arg-type]


def test_what_the_paper_cannot_score_is_refused_when_it_is_asked_for() -> None:
    organs = {name: value for value, name in enumerate(ABDOMEN_TOLERANCES, start=1)}
    assert Scoring(labels=organs, file_ending=".nii.gz", protocol="paper").tolerances == {}
    with pytest.raises(ValueError, match="Protocol paper knows no ignore label"):
        Scoring(labels=organs, file_ending=".nii.gz", protocol="paper", ignore_label=14)
    with pytest.raises(ValueError, match="13 organs"):
        Scoring(labels=LABELS, file_ending=".nii.gz", protocol="paper")
    assert Scoring(labels=LABELS, file_ending=".png", protocol="paper")  # pictures: any classes


def test_options_that_would_not_act() -> None:
    with pytest.raises(ValueError, match="grow=2 is for task=instances; this task is semantic"):
        Labelling(labels=LABELS, grow=2)
    with pytest.raises(ValueError, match="instance_predictions=true is for task=instances"):
        Labelling(labels=LABELS, instance_predictions=True)
    with pytest.raises(ValueError, match="instance_predictions=true gives it none"):
        Labelling(labels=LABELS, task="instances", grow=2, instance_predictions=True)


def test_class_maps_become_instances_and_nothing_else_changes() -> None:
    classes = np.zeros((20, 20), np.uint8)
    classes[2:6, 2:6], classes[10:16, 10:16] = 1, 1
    found = Labelling(labels=LABELS, task="instances").as_compared(classes)
    assert sorted(np.unique(found)) == [0, 1, 2]
    assert Labelling(labels=LABELS).as_compared(classes) is classes
    assert Labelling(labels=LABELS, task="instances", instance_predictions=True).as_compared(classes) is classes
