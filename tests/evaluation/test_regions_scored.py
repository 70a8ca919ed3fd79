"""Scores, and post-processing, of regions: those of the regions' masks, and of plain labels where they are such."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.inference.small import make_plan
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import fit_rules, save_rules
from umamba.evaluation.scoring import Labelling, Scoring
from umamba.evaluation.standard import score_semantic
from umamba.inference.rules import apply_rules, load_rules
from umamba.raw.regions import Region

BRATS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
SPACING = (2.0, 1.0, 1.0)


def label_maps(seed: int = 0, ignored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 5 if ignored else 4, (4, 5, 6))
    reference = np.kron(coarse, np.ones((2, 3, 3), int))
    prediction = np.where(random.random(reference.shape) < 0.1, random.integers(0, 4, reference.shape), reference)
    return reference, np.where(prediction == 4, 1, prediction)


def same(one: dict, other: dict) -> bool:
    keys = [key for key in one if key not in ("class", "label")]
    return all(one[key] == pytest.approx(other[key], nan_ok=True) for key in keys)


@pytest.mark.parametrize("ignore_label", [None, 4])
def test_a_regions_scores_are_those_of_its_mask(ignore_label) -> None:
    reference, prediction = label_maps(ignored=ignore_label is not None)
    tolerances = dict.fromkeys(BRATS, 1.0)
    for row in score_semantic(reference, prediction, SPACING, BRATS, tolerances, ignore_label):
        masks = [np.isin(part, BRATS[row["class"]]).astype(int) for part in (reference, prediction)]
        masks[1][reference == ignore_label if ignore_label is not None else np.zeros_like(masks[0], bool)] = 0
        (expected,) = score_semantic(*masks, SPACING, {"mask": 1}, {"mask": 1.0})
        assert same(row, expected) and 0 < row["dsc"] < 1 and np.isfinite(row["hd95"])
    assert [row["label"] for row in score_semantic(reference, prediction, SPACING, BRATS, tolerances, 4)] == [
        "1+2+3", "2+3", 3,
    ]  # fmt: skip


def test_disjoint_single_labels_are_plain_classes() -> None:
    reference, prediction = label_maps()
    labels, tolerances = {"a": 1, "b": 2, "c": 3}, {"a": 1.0, "b": 2.0, "c": 0.0}
    plain = score_semantic(reference, prediction, SPACING, labels, tolerances)
    regions = score_semantic(reference, prediction, SPACING, {n: (v,) for n, v in labels.items()}, tolerances)
    assert plain == regions


def test_what_a_plan_with_regions_says_of_label_maps() -> None:
    regions = tuple(Region(name=n, labels=v, written=v[0]) for n, v in BRATS.items())
    scoring = Scoring.of(replace(make_plan(classes=1), regions=regions), tolerance=2.0)
    assert scoring.labels == {"background": 0, "whole": 1, "core": 2, "enhancing": 3}
    assert scoring.scored == BRATS and scoring.tolerances == dict.fromkeys(BRATS, 2.0)
    with pytest.raises(ValueError, match="Protocol paper knows no regions"):
        replace(scoring, protocol="paper")
    with pytest.raises(ValueError, match="task=instances counts objects of classes; the labels are the regions whole"):
        Labelling(labels=scoring.labels, regions=scoring.regions, task="instances")


def save(path: Path, label: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(label.astype(np.uint8)), str(path))
    return path


def test_rules_keep_the_largest_component_of_a_region(tmp_path: Path) -> None:
    pairs = []
    for case in range(2):
        reference = np.zeros((8, 16, 16), int)
        reference[1:7, 2:10, 2:10], reference[2:5, 4:8, 4:8] = 1, 2
        prediction = reference.copy()
        prediction[5:7, 12:15, 12:15] = 1  # a false island of the whole alone
        paths = {name: save(tmp_path / name / f"{case}.nii.gz", label) for name, label in
                 (("prediction", prediction), ("reference", reference))}  # fmt: skip
        pairs.append(Pair(case=str(case), **paths))
    regions = {"whole": (1, 2), "core": (2,)}
    rules = fit_rules(pairs, regions)
    assert [(rule.classes, rule.labels) for rule in rules] == [(("whole", "core"), (1, 2))]
    save_rules(rules, tmp_path / "rules.json", ["0", "1"])
    assert load_rules(tmp_path / "rules.json", regions) == rules
    np.testing.assert_array_equal(apply_rules(prediction, rules), reference)
    for other in ({"whole": (1, 2, 3), "core": (2,)}, {"whole": (1, 2)}):
        with pytest.raises(ValueError, match=r"a rule for whole, core = 1, 2; the labels are .*Fit the rules on this"):
            load_rules(tmp_path / "rules.json", other)


def test_a_table_of_regions(tmp_path: Path) -> None:
    reference, prediction = label_maps()
    pair = Pair(case="a", prediction=save(tmp_path / "p" / "a.nii.gz", prediction),
                reference=save(tmp_path / "r" / "a.nii.gz", reference))  # fmt: skip
    labels = {"background": 0, "whole": 1, "core": 2, "enhancing": 3}
    scoring = Scoring(labels=labels, regions=BRATS, file_ending=".nii.gz", tolerance=1.0)
    scores = evaluate([pair], scoring, workers=0)
    assert list(scores["class"]) == list(BRATS)
    inside = [2 * (np.isin(reference, v) & np.isin(prediction, v)).sum() for v in BRATS.values()]
    total = [np.isin(reference, v).sum() + np.isin(prediction, v).sum() for v in BRATS.values()]
    np.testing.assert_allclose(scores["dsc"], np.divide(inside, total))
