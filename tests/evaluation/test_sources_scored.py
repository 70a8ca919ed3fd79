"""A case of a data set that lacks a class: the classes that it has are scored on all voxels, the other one is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import fit_rules
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.tables import write_source_tables
from umamba.raw.readers import Geometry, write_label
from umamba.raw.sources import Source

LABELS = {"background": 0, "liver": 1, "spleen": 2}
SCORING = Scoring(labels=LABELS, file_ending=".nii.gz", ignore_label=3, tolerance=1.0)


def pair(folder: Path, source: Source | None) -> Pair:
    """Liver found, and a piece of it elsewhere; a spleen where nobody has looked; the background is ignored."""
    reference = np.full((4, 20, 20), 3)
    prediction = np.zeros_like(reference)
    reference[1:3, 2:8, 2:8] = prediction[1:3, 2:8, 2:8] = 1
    prediction[1:3, 14:17, 2:5] = 1
    prediction[1:3, 12:18, 12:18] = 2
    n = len(list(folder.glob("reference_*")))
    geometry = Geometry(
        spacing=(1.0,) * 3, origin=(0.0,) * 3, direction=tuple(np.eye(3).flat), shape=(4, 20, 20), dimension=3
    )
    paths = {kind: folder / f"{kind}_{n}.nii.gz" for kind in ("reference", "prediction")}
    for kind, label in (("reference", reference), ("prediction", prediction)):
        write_label(label, paths[kind], geometry)
    return Pair(case=f"case_{n}", source=source, **paths)


def test_false_positives_of_labelled_classes_count_and_other_classes_do_not(tmp_path: Path) -> None:
    pairs = [pair(tmp_path, Source(name="B", unlabelled=("spleen",))), pair(tmp_path, Source(name="A"))]
    scores = evaluate(pairs, SCORING, workers=0)
    found = {(row.case, row[3]): row for row in scores.itertuples()}
    assert set(found) == {("case_0", "liver"), ("case_1", "liver"), ("case_1", "spleen")}
    assert found["case_0", "liver"].dsc == pytest.approx(2 * 72 / (72 + 72 + 18))
    assert found["case_1", "liver"].dsc == 1  # what is ignored because nobody has looked for anything
    write_source_tables(scores, pairs, tmp_path)
    text = (tmp_path / "per_source.md").read_text()
    assert text.count("| B |") == 1 and text.count("| A |") == 3 and "B has no labels of spleen" in text
    write_source_tables(scores, [pair(tmp_path, None)], tmp_path)
    assert not (tmp_path / "per_source.md").exists()


def test_post_processing_is_decided_on_what_is_known(tmp_path: Path) -> None:
    rules = fit_rules([pair(tmp_path, Source(name="B", unlabelled=("spleen",)))], LABELS, 3)
    assert [rule.classes for rule in rules] == [("liver",)] and rules[0].dice_after == 1
    assert fit_rules([pair(tmp_path, Source(name="A"))], LABELS, 3) == []
