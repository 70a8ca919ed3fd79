"""Checkpoints that predict together by an ensemble.json: of one plan or several, with rules over their label maps."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.inference.small import make_plan, save_checkpoint, write_image
from umamba.inference.averaged import average, predictor_of
from umamba.inference.decision import Decision, values_left
from umamba.inference.ensemble import FILE, Group, find_ensemble, read_ensemble, write_ensemble
from umamba.inference.predictor import Predictor
from umamba.inference.rules import Rule, keep_largest
from umamba.raw.readers import read_label
from umamba.raw.regions import Region

RULE = Rule(classes=("class_1",), labels=(1,), dice_before=0.5, dice_after=0.6)


def coarse(classes: int = 3):
    """A plan of 1.5 mm, another than `make_plan` makes."""
    plan = make_plan(classes=classes)
    configuration = dataclasses.replace(plan.configurations["3d_fullres"], spacing=(1.5, 1.5, 1.5))
    return dataclasses.replace(plan, configurations={"3d_fullres": configuration})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of each of three plans, and two images."""
    for name, plan in (
        ("fine", make_plan(classes=3)),
        ("coarse", coarse()),
        ("flat", make_plan(classes=3, patch=(8, 8))),
    ):
        for seed in (0, 1):
            save_checkpoint(tmp_path / name / f"{seed}.ckpt", plan, seed=seed)
    for seed in (0, 1):
        write_image(tmp_path / "images" / f"case{seed}_0000.nii.gz", seed=seed)
    return tmp_path


def ensemble(folder: Path, *names: str, rules=(), **options) -> Path:
    groups = [Group.of(name, sorted((folder / name).glob("*.ckpt"))) for name in names]
    path = folder / FILE
    write_ensemble(path, groups, rules, mirror=False, fitted_on=["a"], facts={"note": 1}, **options)
    return path


def test_one_group_is_the_mean_of_logits_and_rules_are_applied(folder: Path) -> None:
    plain = Predictor.from_checkpoint([folder / "fine" / f"{seed}.ckpt" for seed in (0, 1)], device="cpu")
    expected, geometry = plain.predict([folder / "images" / "case0_0000.nii.gz"])
    path = ensemble(folder, "fine", rules=[RULE])
    predictor = predictor_of(path, device="cpu")
    label, found = predictor.predict([folder / "images" / "case0_0000.nii.gz"])
    assert found == geometry
    np.testing.assert_array_equal(label, keep_largest(expected, [1]))
    assert (label != expected).any()  # or the rule shows nothing
    without = predictor_of(path, device="cpu", postprocessing=False)
    np.testing.assert_array_equal(without.predict([folder / "images" / "case0_0000.nii.gz"])[0], expected)
    image = sitk.ReadImage(str(folder / "images" / "case0_0000.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(predictor.segment(image)), label)


def test_rules_see_all_classes_before_some_are_kept(folder: Path) -> None:
    rule = Rule(classes=("class_1", "class_2"), labels=(1, 2), dice_before=0.5, dice_after=0.6)
    predictor = predictor_of(ensemble(folder, "fine", rules=[rule]), device="cpu")
    for out, labels in (("all", None), ("some", ["class_2"])):
        predictor.segment_files(folder / "images", folder / out, labels=labels)
    whole, some = (read_label(folder / out / "case1.nii.gz")[0] for out in ("all", "some"))
    np.testing.assert_array_equal(some, np.where(whole == 2, 2, 0))


@pytest.mark.parametrize(("other", "step"), [("coarse", 0.5), ("flat", 0.5), ("flat", 1.0)])
def test_several_plans_are_averaged_as_probabilities_on_the_image(folder: Path, other: str, step: float) -> None:
    parts = []
    for name in ("fine", other):
        one = Predictor.from_checkpoint([folder / name / f"{seed}.ckpt" for seed in (0, 1)], device="cpu")
        one.step = step
        one.segment_files(folder / "images", folder / f"out_{name}", keep=["probabilities"])
        parts.append(np.load(folder / f"out_{name}" / "case0.npz")["probabilities"].astype(np.float64))
    mean = sum(parts) / 2
    predictor = predictor_of(ensemble(folder, "fine", other), device="cpu")
    predictor.step = step
    predictor.segment_files(folder / "images", folder / "out", keep=["probabilities"])
    np.testing.assert_array_equal(read_label(folder / "out" / "case0.nii.gz")[0], mean.argmax(0))
    np.testing.assert_allclose(np.load(folder / "out" / "case0.npz")["probabilities"], mean, atol=1e-3)
    record = json.loads((folder / "out" / "inference.json").read_text())
    assert len(record["made_by"]["networks"]) == 2 and len(record["made_by"]["plan"]) == 2
    with pytest.raises(ValueError, match="save_logits=true: networks of several plans"):
        predictor.segment_files(folder / "images", folder / "out", keep=["logits"])
    assert json.loads((folder / "out" / "inference.json").read_text()) == record  # refused before it is replaced


def test_the_order_of_groups_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = [folder / "images" / "case0_0000.nii.gz"]
    caplog.set_level("INFO")
    one, _ = predictor_of(ensemble(folder, "fine", "flat"), device="cpu").predict(image)
    other, _ = predictor_of(ensemble(folder, "flat", "fine"), device="cpu").predict(image)
    np.testing.assert_array_equal(one, other)
    assert "checkpoints 2 of fine (3d_fullres) and 2 of flat (2d)" in caplog.text


def test_a_tie_is_of_the_first_class_and_other_shapes_are_refused() -> None:
    half, decision = np.full((2, 1, 1, 2), 0.5, np.float16), Decision.of(make_plan(classes=2))
    label, mean = average([half, half], decision, keep=True)
    assert label.tolist() == [[[0, 0]]] and mean is not None and (mean == 0.5).all()
    with pytest.raises(ValueError, match=r"Probabilities of one case have the shapes"):
        average([half, half[..., :1]], decision)


def test_regions_are_decided_on_the_mean_of_their_probabilities() -> None:
    regions = (Region(name="whole", labels=(1, 2), written=1), Region(name="core", labels=(2,), written=2))
    plan = dataclasses.replace(make_plan(classes=1), regions=regions)
    one = np.array([0.9, 0.9, 0.2, 0.2, 0.5], np.float16).reshape(1, 1, 1, 5).repeat(2, 0)
    other = np.array([[0.9, 0.2, 0.2, 0.7, 0.5], [0.0, 0.2, 0.9, 0.9, 0.5]], np.float16).reshape(2, 1, 1, 5)
    label, mean = average([one, other], Decision.of(plan), keep=True)
    assert label.tolist() == [[[1, 2, 2, 2, 0]]] and mean is not None and mean.shape == one.shape
    assert average([one, other], Decision.of(plan, ["whole"]))[0].tolist() == [[[1, 1, 0, 0, 0]]]
    assert values_left(plan, ["whole"]).tolist() == [0, 1, 1] and values_left(plan, ["core"]).tolist() == [0, 0, 2]


def test_checkpoints_of_other_labels_are_refused(folder: Path) -> None:
    save_checkpoint(folder / "more" / "0.ckpt", make_plan(classes=4))
    with pytest.raises(ValueError, match=r"must agree in labels: .*class_2': 2\}.*class_3': 3\}"):
        predictor_of(ensemble(folder, "fine", "more"), device="cpu")


def test_a_rule_of_other_labels_is_refused(folder: Path) -> None:
    rule = dataclasses.replace(RULE, classes=("liver",))
    with pytest.raises(ValueError, match=r"ensemble\.json has a rule for liver = 1; the labels are"):
        predictor_of(ensemble(folder, "fine", rules=[rule]), device="cpu")


def test_missing_and_changed_checkpoints_are_named(folder: Path) -> None:
    path = ensemble(folder, "fine", "coarse")
    save_checkpoint(folder / "coarse" / "1.ckpt", coarse(), seed=7)
    with pytest.raises(ValueError, match=r"coarse/1\.ckpt is another checkpoint than the one that .*was made with"):
        predictor_of(path, device="cpu")
    (folder / "coarse" / "1.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"names checkpoints that are not there: .*coarse/1\.ckpt\."):
        read_ensemble(path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "no json", '{"version": 2}', '{"version": 1, "groups": [], "mirror": false}',
             '{"version": 1, "groups": [{"name": "a", "members": [3]}], "mirror": false}'],
)  # fmt: skip
def test_files_that_are_no_ensemble_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no ensemble of checkpoints"):
        read_ensemble(tmp_path / "x.json")


def test_what_is_no_ensemble_yet_says_which_folds_there_are(tmp_path: Path) -> None:
    assert find_ensemble([tmp_path]) is None and find_ensemble(tmp_path / "last.ckpt") is None
    for fold in (0, 2):
        (tmp_path / f"fold_{fold}" / "checkpoints").mkdir(parents=True)
    (tmp_path / "fold_0" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"it has checkpoints of fold_0, and fold_2 without one"):
        find_ensemble(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no .*absent\.json"):
        find_ensemble(tmp_path / "absent.json")


def test_a_folder_is_found_again_where_it_was_moved(folder: Path) -> None:
    ensemble(folder, "fine")
    moved = folder.rename(folder.with_name("moved"))
    found = find_ensemble(moved)
    assert found is not None
    assert predictor_of(found, device=torch.device("cpu")).plan.num_classes == 3


def test_a_copy_of_a_checkpoint_counts_double_and_that_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = sorted((folder / "fine").glob("*.ckpt"))
    Predictor.from_checkpoint([str(path) for path in checkpoints], "cpu")
    assert "count double" not in caplog.text
    copy = shutil.copy(checkpoints[0], folder / "copy.ckpt")
    Predictor.from_checkpoint([*map(str, checkpoints), str(copy)], "cpu")
    assert f"{copy} holds the same weights as {checkpoints[0]}" in caplog.text
