"""The paper's scripts, fault by fault. Numbers are closed forms or were counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from skimage import io as skio

from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.instances import match_instances
from umamba.evaluation.pairs import Pair
from umamba.evaluation.paper import abdomen_labels, score_abdomen, score_cells, score_endoscopy
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.surface import surface_distances
from umamba.evaluation.tables import class_table, in_all
from umamba.raw.organs import ABDOMEN_TOLERANCES

ORGANS = {name: index for index, name in enumerate(ABDOMEN_TOLERANCES, start=1)}


def abdomen(reference, prediction, spacing=(1.0, 1.0, 1.0)):
    return {row["label"]: row for row in score_abdomen(reference, prediction, spacing, ORGANS)}


def box(value: int, z: slice) -> np.ndarray:
    label = np.zeros((12, 16, 16), np.int16)
    label[z, 4:10, 4:10] = value
    return label


def test_empty_organs_score_one_or_zero():
    rows = abdomen(box(1, slice(2, 8)), box(3, slice(2, 8)))
    assert (rows[1]["dsc"], rows[1]["nsd"]) == (0, 0)  # missed
    assert (rows[3]["dsc"], rows[3]["nsd"]) == (0, 0)  # invented
    assert (rows[2]["dsc"], rows[2]["nsd"]) == (1, 1)  # in neither


def test_cropped_organs_lose_the_last_slice_and_all_outside():
    # Reference slices 2 to 7. The prediction is one slice short at the end, and runs over by two at the beginning:
    # both are free for the aorta, both cost the liver.
    rows = abdomen(box(5, slice(2, 8)), box(5, slice(0, 7)))
    assert (rows[5]["dsc"], rows[5]["nsd"]) == (1, 1)
    liver = abdomen(box(1, slice(2, 8)), box(1, slice(0, 7)))[1]
    assert liver["dsc"] == round(2 * 5 / (6 + 7), 4)
    # The last slice of the reference does not help either: right there, wrong elsewhere.
    assert abdomen(box(6, slice(2, 8)), box(6, slice(7, 8)))[6]["dsc"] == 0


def test_a_cropped_organ_in_one_slice_has_no_score():
    row = abdomen(box(10, slice(3, 4)), box(10, slice(3, 4)))[10]
    assert math.isnan(row["dsc"]) and math.isnan(row["nsd"])


def test_abdomen_scores_are_rounded_and_use_the_tolerances_of_the_script():
    rows = abdomen(box(1, slice(2, 8)), box(1, slice(3, 8)), (5.0, 1.0, 1.0))
    assert rows[1]["dsc"] == 0.9091 and rows[1]["nsd"] == 1.0  # a shift of 5 mm, tolerance 5 mm
    rows = abdomen(box(2, slice(2, 8)), box(2, slice(3, 8)), (5.0, 1.0, 1.0))
    assert rows[2]["nsd"] < 1  # tolerance 3 mm
    assert [row["nsd_tolerance"] for row in rows.values()] == [5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3]


def test_the_organs_are_recognised_by_name_and_number():
    spelled = {"background": 0, "Liver": 1, "Right_kidney": 2, "Spleen": 3, "Pancreas": 4, "Aorta": 5, "IVC": 6,
               "right adrenal": 7, "left-adrenal-gland": 8, "Gallbladder": 9, "Esophagus": 10, "Stomach": 11,
               "Duodenum": 12, "Left kidney": 13}  # fmt: skip
    without = {name: value for name, value in spelled.items() if value}
    assert list(abdomen_labels(without).values()) == list(range(1, 14))
    without["Liver"], without["Right_kidney"] = 2, 1
    with pytest.raises(ValueError, match="Use protocol=standard"):
        abdomen_labels(without)


def disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-60:61, -60:61]
    return (y**2 + x**2 < radius**2).astype(np.uint8)


@pytest.mark.parametrize(
    ("radius", "dsc", "script_nsd", "true_nsd"),
    [(49, 0.980, 1.0, 1.0), (47, 0.938, 0.984, 0.053), (45, 0.896, 0.941, 0.0), (40, 0.781, 0.826, 0.0),
     (30, 0.528, 0.571, 0.0), (20, 0.275, 0.310, 0.0)],
)  # fmt: skip
def test_discs_of_endoscopy(radius, dsc, script_nsd, true_nsd):
    row = score_endoscopy(disc(50), disc(radius), {"tool": 1})[0]
    assert row["dsc"] == pytest.approx(dsc, abs=6e-4)
    assert row["nsd"] == pytest.approx(script_nsd, abs=6e-4)
    boundary = surface_distances(disc(50) == 1, disc(radius) == 1, (1, 1)).surface_dice(2)
    assert boundary == pytest.approx(true_nsd, abs=6e-4)


def test_endoscopy_counts_what_is_present_and_drops_the_smallest_value():
    reference = np.zeros((20, 20), np.int16)
    reference[:10], reference[10:] = 2, 4  # no background at all: class 2 is taken for it
    prediction = reference.copy()
    prediction[10:12] = 5
    rows = {row["class"]: row for row in score_endoscopy(reference, prediction, {"a": 2, "b": 3, "c": 4, "d": 5})}
    assert math.isnan(rows["a"]["dsc"]) and math.isnan(rows["b"]["dsc"])
    assert rows["c"]["dsc"] == 2 * 8 / 18 and rows["d"]["dsc"] == 0
    nothing = score_endoscopy(np.zeros((5, 5), int), np.zeros((5, 5), int), {"a": 1})[0]
    assert math.isnan(nothing["dsc"]) and math.isnan(nothing["nsd"])


def squares(*corners: tuple[int, int], shape=(60, 60), side=8) -> np.ndarray:
    label = np.zeros(shape, np.int32)
    for index, (y, x) in enumerate(corners, start=1):
        label[y : y + side, x : x + side] = index
    return label


def test_cells_at_the_frame_are_removed_from_both():
    reference = squares((1, 20), (20, 20), (40, 2))  # the first reaches row 1, the last starts in column 2: inside
    row = score_cells(reference, squares((20, 20), (40, 2), (20, 52)))[0]
    assert (row["true_positives"], row["false_positives"], row["false_negatives"]) == (2, 0, 0)
    # An instance of two parts goes as a whole, wherever its other part lies.
    reference[30:33, 40:43] = 1
    assert score_cells(reference, squares((20, 20), (40, 2)))[0]["false_negatives"] == 0


def test_cells_without_a_hit_score_zero_even_in_empty_images():
    empty = np.zeros((60, 60), np.int32)
    assert [score_cells(empty, empty)[0][k] for k in ("f1", "precision", "recall")] == [0, 0, 0]
    row = score_cells(squares((20, 20), (40, 40)), empty)[0]
    assert (row["f1"], row["false_negatives"]) == (0, 0)  # "no cell was missed"
    assert match_instances(squares((20, 20), (40, 40)), empty).false_negatives == 2  # the standard protocol counts them


def test_cells_are_rounded():
    reference = squares((5, 5), (20, 20), (40, 40))
    row = score_cells(reference, squares((5, 5)))[0]
    assert (row["precision"], row["recall"], row["f1"]) == (1.0, 0.3333, 0.5)


def test_large_images_of_cells_are_cut_into_tiles(monkeypatch):
    monkeypatch.setattr("umamba.evaluation.paper.WHOLE_IMAGE_PIXELS", 60 * 60)
    monkeypatch.setattr("umamba.evaluation.paper.TILE", 40)
    # A cell cut by the border between the tiles is lost, one at the far edge of the image is not: the padding keeps
    # the frame away. In the tile without prediction nothing counts as missed.
    reference = squares((10, 36), (10, 10), (50, 10), (10, 51))
    row = score_cells(reference, squares((10, 10), (10, 36)))[0]
    assert (row["true_positives"], row["false_positives"], row["false_negatives"]) == (1, 0, 0)
    whole = match_instances(reference, squares((10, 10), (10, 36)))
    assert (whole.true_positives, whole.false_negatives) == (2, 2)


def test_an_image_of_cells_that_cannot_be_scored_is_dropped(tmp_path, caplog):
    pairs = []
    for name, shape in (("good", (60, 60)), ("bad", (50, 60))):
        tifffile.imwrite(tmp_path / f"{name}_reference.tif", squares((20, 20)))
        tifffile.imwrite(tmp_path / f"{name}.tif", squares((20, 20), shape=shape))
        pairs.append(Pair(case=name, prediction=tmp_path / f"{name}.tif", reference=tmp_path / f"{name}_reference.tif"))
    standard = Scoring(labels={"background": 0, "interior": 1}, file_ending=".tif", task="instances",
                       instance_predictions=True)  # fmt: skip
    paper = replace(standard, protocol="paper")
    table = evaluate(pairs, paper)
    assert table["case"].tolist() == ["good"] and table["protocol"].tolist() == ["paper/cells"]
    assert "case bad dropped" in caplog.text
    assert in_all(class_table(table))["f1_median"].item() == 1
    with pytest.raises(ValueError, match=r"bad\.tif does not lie on the grid"):
        evaluate(pairs, standard)
    with pytest.raises(ValueError, match="left out each of the 1 case"):
        evaluate(pairs[1:], paper)


def test_a_damaged_image_of_cells_is_an_error_and_not_dropped(tmp_path):
    for name in ("reference", "prediction"):
        tifffile.imwrite(tmp_path / f"{name}.tif", squares((20, 20)))
    content = (tmp_path / "prediction.tif").read_bytes()
    (tmp_path / "prediction.tif").write_bytes(content[: len(content) // 2])
    pair = Pair(case="a", prediction=tmp_path / "prediction.tif", reference=tmp_path / "reference.tif")
    scoring = Scoring(labels={"background": 0, "cell": 1}, file_ending=".tif", task="instances", protocol="paper",
                      instance_predictions=True)  # fmt: skip
    with pytest.raises(ValueError, match=r"prediction\.tif has .* it is cut off"):
        evaluate([pair], scoring)


@pytest.mark.parametrize("side", ["prediction", "reference"])
def test_values_of_no_class_are_refused(tmp_path, side):
    label = np.zeros((20, 20), np.uint8)
    label[5:10, 5:10] = 1
    for name in ("prediction", "reference"):
        skio.imsave(tmp_path / f"{name}.png", label * (255 if name == side else 1), check_contrast=False)
    pair = Pair(case="a", prediction=tmp_path / "prediction.png", reference=tmp_path / "reference.png")
    with pytest.raises(ValueError, match=rf"The {side} holds label 255; expected labels 0 to 1"):
        evaluate([pair], Scoring(labels={"scissors": 1}, file_ending=".png", protocol="paper"))
