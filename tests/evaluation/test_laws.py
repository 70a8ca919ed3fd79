"""Laws of pairing and of label rules, for any names and label maps."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import skimage.measure
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from umamba.evaluation.overlap import count_overlap
from umamba.evaluation.pairs import pair_folders
from umamba.evaluation.scoring import Scoring
from umamba.inference.rules import Rule, apply_rules, keep_largest
from umamba.raw.description import DatasetDescription
from umamba.raw.organs import ABDOMEN_TOLERANCES

STANDARD = Scoring(labels={"liver": 1}, file_ending=".nii.gz", tolerance=1.0)
ORGANS = {name: value for value, name in enumerate(ABDOMEN_TOLERANCES, start=1)}
PAPER = Scoring(labels=ORGANS, file_ending=".nii.gz", protocol="paper")

names = st.sets(st.text("abcAB012_ ()äé.-", min_size=1, max_size=6).filter(lambda n: n[0] != "."), max_size=5)
maps = arrays(np.int16, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 3))
rules = st.lists(
    st.sampled_from([(1,), (2,), (1, 2), (1, 2, 3)]).map(
        lambda values: Rule(classes=tuple(map(str, values)), labels=values, dice_before=0.0, dice_after=1.0)
    ),
    max_size=3,
)


@settings(deadline=None)
@given(names, names)
def test_every_reference_has_its_own_prediction_or_none_is_scored(predicted, expected):
    with tempfile.TemporaryDirectory() as folder:
        for kind, some in (("predictions", predicted), ("references", expected)):
            (Path(folder) / kind).mkdir()
            for name in some:
                (Path(folder) / kind / f"{name}.nii.gz").touch()

        def pair(scoring: Scoring = STANDARD):
            return pair_folders(Path(folder, "predictions"), Path(folder, "references"), scoring)

        if predicted == expected and expected:
            pairs = pair()
            assert [p.case for p in pairs] == sorted(expected)
            assert all(p.prediction.name == p.reference.name == f"{p.case}.nii.gz" for p in pairs)
            assert all(
                (p.prediction.parent.name, p.reference.parent.name) == ("predictions", "references") for p in pairs
            )
            return
        with pytest.raises((ValueError, FileNotFoundError)):
            pair()
        if predicted and predicted < expected:
            assert {p.case for p in pair(PAPER)} == predicted


@given(maps, rules)
def test_rules_only_take_away_and_doing_it_twice_takes_no_more(label, some):
    after = apply_rules(label, some)
    assert ((after == label) | (after == 0)).all() and after.dtype == label.dtype
    for values in {rule.labels for rule in some}:
        once = keep_largest(label, values)
        assert (keep_largest(once, values) == once).all()
        assert (once[~np.isin(label, values)] == label[~np.isin(label, values)]).all()
        components, sizes = (
            skimage.measure.label(np.isin(x, values), connectivity=3) for x in (once, label)
        )  # fmt: skip
        assert components.max() == (1 if np.isin(label, values).any() else 0)
        assert np.count_nonzero(components) == max(np.bincount(sizes.ravel())[1:], default=0)


@given(maps.flatmap(lambda a: st.tuples(st.just(a), arrays(np.int16, a.shape, elements=st.integers(0, 3)))))
def test_dice_is_symmetric_and_between_zero_and_one(pair):
    reference, prediction = pair
    there, back = count_overlap(reference, prediction, 4), count_overlap(prediction, reference, 4)
    for value in (1, 2, 3):
        dice = there.dice(value)
        assert np.isnan(dice) == (value not in reference and value not in prediction)
        assert np.isnan(dice) or (0 <= dice <= 1 and dice == back.dice(value))
        mask, other = reference == value, prediction == value
        if mask.any() or other.any():
            assert dice == 2 * np.count_nonzero(mask & other) / (mask.sum() + other.sum())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.none() | st.integers(0, 8))
def test_labels_are_taken_when_each_class_has_the_next_number(values, ignore):
    labels = {"background" if i == 0 else f"class {i}": value for i, value in enumerate(values)}
    entries = labels | ({"ignore": ignore} if ignore is not None else {})
    content = {"channel_names": {"0": "CT"}, "labels": entries, "numTraining": 1, "file_ending": ".nii.gz"}
    good = values[0] == 0 and sorted(values) == list(range(len(values))) and (ignore is None or ignore > max(values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.json"
        path.write_text(json.dumps(content))
        if good:
            description = DatasetDescription.read(path)
            assert description.labels == labels and description.ignore_label == ignore
            assert description.allowed_values == {*values, *([ignore] if ignore is not None else [])}
        else:
            with pytest.raises(ValueError, match=r"dataset\.json: "):
                DatasetDescription.read(path)
