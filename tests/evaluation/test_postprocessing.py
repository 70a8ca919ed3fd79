"""Largest-component rules: what they do, when they are kept, and files of rules that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import fit_rules, postprocess_pairs, save_rules
from umamba.inference.rules import apply_rules, keep_largest, load_rules
from umamba.raw.readers import read_label

LABELS = {"background": 0, "liver": 1, "vessels": 2}


def make_pair(folder: Path, case: str, islands: int) -> Pair:
    """A liver in one piece with wrong islands of it, and vessels that truly are in two pieces."""
    reference = np.zeros((10, 24, 24), np.uint8)
    reference[2:8, 2:12, 2:12] = 1
    reference[2:8, 3:6, 16:20], reference[2:8, 10:13, 16:20] = 2, 2
    prediction = reference.copy()
    for index in range(islands):
        prediction[3 + index, 20:22, 3:5] = 1
    paths = []
    for name, array in (("prediction", prediction), ("reference", reference)):
        path = folder / name / f"{case}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        paths.append(path)
    return Pair(case=case, prediction=paths[0], reference=paths[1])


def test_only_the_largest_component_of_the_union_is_left():
    label = np.array([[1, 1, 0, 2, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 1]])
    assert keep_largest(label, [1]).tolist() == [[1, 1, 0, 2, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert keep_largest(label, [1, 2]).tolist() == [[1, 1, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert (keep_largest(label, [3]) == label).all()


def test_rules_are_kept_where_they_help(tmp_path):
    pairs = [make_pair(tmp_path, f"c{n}", islands=n) for n in (1, 2)]
    rules = fit_rules(pairs, LABELS)
    assert [rule.classes for rule in rules] == [("liver",)]  # not the vessels, and not all classes as one object
    assert rules[0].dice_after == 1 > rules[0].dice_before
    save_rules(rules, tmp_path / "rules.json", ["c"])
    loaded = load_rules(tmp_path / "rules.json", LABELS)
    assert loaded == rules
    processed = postprocess_pairs(pairs, loaded, tmp_path / "processed")
    for before, after in zip(pairs, processed, strict=True):
        label, geometry = read_label(after.prediction)
        np.testing.assert_array_equal(label, read_label(after.reference)[0])
        assert geometry == read_label(before.prediction)[1]


def test_all_classes_as_one_object_are_no_rule_where_one_class_loses(tmp_path):
    """The mean rises, for the liver's islands go; but the vessels, which touch nothing, would go too."""
    pairs = []
    for case in ("a", "b"):
        reference = np.zeros((10, 24, 24), np.uint8)
        reference[2:8, 2:12, 2:12], reference[2, 13:17, 14:22] = 1, 2
        prediction = reference.copy()
        prediction[3:9, 18:23, 2:12] = 1  # the liver's
        prediction[prediction == 2] = 0
        prediction[2, 15, 20] = 2  # of 32 voxels of the vessels: a DSC of 0.06, which is less than the liver gains
        paths = []
        for name, array in (("prediction", prediction), ("reference", reference)):
            path = tmp_path / name / f"{case}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
            paths.append(path)
        pairs.append(Pair(case=case, prediction=paths[0], reference=paths[1]))
    assert [rule.classes for rule in fit_rules(pairs, LABELS)] == [("liver",)]
    # Alone it is a rule: no class loses.
    for pair in pairs:
        vessels = sitk.GetArrayFromImage(sitk.ReadImage(str(pair.prediction)))
        vessels[vessels == 2] = 0
        sitk.WriteImage(sitk.GetImageFromArray(vessels), str(pair.prediction))
    assert [rule.classes for rule in fit_rules(pairs, LABELS)] == [("liver", "vessels")]


def test_perfect_predictions_need_no_rule(tmp_path):
    assert fit_rules([make_pair(tmp_path, "c", islands=0)], LABELS) == []
    label = read_label(tmp_path / "prediction" / "c.nii.gz")[0]
    assert (apply_rules(label, []) == label).all()


def test_rules_that_do_not_fit_are_refused(tmp_path):
    rules = fit_rules([make_pair(tmp_path, "c", islands=2)], LABELS)
    save_rules(rules, tmp_path / "rules.json", ["c"])
    with pytest.raises(ValueError, match=r"rules\.json has a rule for liver = 1; the labels are"):
        load_rules(tmp_path / "rules.json", {"background": 0, "liver": 2, "vessels": 1})
    with pytest.raises(FileNotFoundError, match="No post-processing rules at .*fit_postprocessing=true"):
        load_rules(tmp_path / "absent.json", LABELS)
    rule = '{"keep_largest": [{"classes": ["liver"], "labels": %s, "dice_before": 0, "dice_after": %s}]}'
    of_nothing = '{"keep_largest": [{"classes": [], "labels": [], "dice_before": 0, "dice_after": 1}]}'
    for content, fault in (
        ('{"rules": []}', "it lacks keep_largest"),
        ('{"keep_largest": {}}', "keep_largest is no list"),
        (of_nothing, "classes must be names, at least one"),
        (rule % ("[true]", "1"), "labels must be whole numbers"),
        (rule % ("[1.0]", "1"), "labels must be whole numbers"),
        (rule % ("[1]", '"high"'), "dice_before and dice_after must be numbers"),
    ):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match=rf"other\.json holds no post-processing rules \(.*{fault}\)"):
            load_rules(tmp_path / "other.json", LABELS)
