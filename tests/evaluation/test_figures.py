"""Figures and the W&B table: the right cases, files that exist, errors that say what is missing."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from skimage import io as skio
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from umamba.drawing.slices import fullest_slice, picture_of
from umamba.evaluation import overlays
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.overlays import choose_cases, overlay_figure, worst_class, wrongest_slice
from umamba.evaluation.pairs import Pair
from umamba.evaluation.score_run import log_scores
from umamba.evaluation.scoring import Labelling, Scoring
from umamba.evaluation.wandb_table import log_predictions

SCORING = Scoring(labels={"background": 0, "liver": 1, "spleen": 2}, file_ending=".nii.gz", tolerance=1.0)
BOTH = {"a": SCORING, "b": SCORING}


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    made = []
    for index in range(4):
        label = np.zeros((8, 24, 20), np.uint8)
        label[2:6, 4:12, 3:9], label[3, 14:20, 10:16] = 1, 2
        prediction = np.roll(label, index, axis=2)
        noise = np.random.default_rng(index).normal(0, 5, label.shape).astype(np.float32)
        paths = {}
        for name, array in (("image", label * 40 + noise), ("prediction", prediction), ("reference", label)):
            paths[name] = tmp_path / f"c{index}_{name}.nii.gz"
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.0, 1.0, 3.0))
            sitk.WriteImage(image, str(paths[name]))
        made.append(Pair(case=f"c{index}", prediction=paths["prediction"], reference=paths["reference"],
                         images=(paths["image"],)))  # fmt: skip
    return made


def test_overlays_show_the_worst_and_the_best(pairs, tmp_path):
    scores = evaluate(pairs, SCORING)
    assert choose_cases(scores, 3) == ["c3", "c1", "c0"] or choose_cases(scores, 3) == ["c3", "c2", "c0"]
    shown = overlay_figure({"a": pairs, "b": pairs}, scores, BOTH, tmp_path / "figures" / "overlays.png", cases=2)
    assert shown == ["c3", "c0"]
    picture = skio.imread(tmp_path / "figures" / "overlays.png")
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 10
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["overlays.png"]


def test_no_panel_of_a_single_network_is_empty(pairs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(overlays, "save_figure", lambda figure, path: drawn.append(figure))
    scores = evaluate(pairs, SCORING)
    overlay_figure({"a": pairs}, scores, {"a": SCORING}, tmp_path / "o.png", cases=2)
    overlay_figure({"a": pairs, "b": pairs}, scores, BOTH, tmp_path / "o.png", cases=2)
    one, two = (np.array(figure.axes).reshape(-1, 4) for figure in drawn)
    assert [[ax.get_title().split("\n")[0] for ax in row] for row in one] == [
        ["image", "reference", "a", "errors"], ["image", "reference", "a", "errors"]
    ]  # fmt: skip
    assert all(ax.images for ax in one.flat)
    assert all("slice" in row[0].get_xlabel() and "liver" in row[3].get_xlabel() for row in one)
    assert [[len(ax.images) > 0 for ax in row] for row in two] == [[True] * 4, [False, False, True, True]] * 2
    assert all("slice" in row[0].get_xlabel() for row in two[::2])


def test_each_network_is_drawn_as_it_was_scored(tmp_path, monkeypatch):
    classes = np.zeros((24, 24), np.uint8)
    classes[4:14, 4:14], classes[6:12, 6:12] = 2, 1  # a cell within its boundary
    for name, array in (
        ("image", classes * 50),
        ("prediction", classes),
        ("reference", (classes > 0).astype(np.uint8)),
    ):
        skio.imsave(tmp_path / f"{name}.png", array, check_contrast=False)
    pair = Pair(case="a", prediction=tmp_path / "prediction.png", reference=tmp_path / "reference.png",
                images=(tmp_path / "image.png",))  # fmt: skip
    scores = pd.DataFrame({"case": ["a"] * 2, "class": "instances", "f1": [0.5, 0.9], "run": ["plain", "grown"]})
    labels, drawn = {"background": 0, "interior": 1, "boundary": 2}, []
    coloured = overlays._coloured
    monkeypatch.setattr(overlays, "_coloured", lambda layer, kind: drawn.append(layer) or coloured(layer, kind))
    cells = {name: Labelling(labels=labels, task="instances", grow=name == "grown") for name in ("plain", "grown")}
    overlay_figure({"plain": [pair], "grown": [pair]}, scores, cells, tmp_path / "o.png", cases=1)
    assert [np.count_nonzero(layer) for layer in drawn][:2] == [100, 36] and np.count_nonzero(drawn[2]) > 36


def test_the_slice_where_the_worst_class_is_most_wrong():
    reference = np.zeros((4, 5, 5), int)
    reference[0], reference[2, 1:3], reference[3, 0, 0] = 1, 2, 2
    prediction = reference.copy()
    prediction[0, :2], prediction[2, 1] = 0, 0  # ten voxels of class 1, five of class 2
    scores = pd.DataFrame({"class": ["one", "two", "three"] * 2, "dsc": [0.9, 0.5, None, 0.9, 0.7, None]})
    assert worst_class(scores) == "two" and worst_class(scores.assign(dsc=np.nan)) is None
    assert wrongest_slice(reference, [prediction], 2) == 2
    assert wrongest_slice(reference, [prediction], 1) == 0
    assert wrongest_slice(reference, [reference], 2) == 2  # nowhere wrong: where there is most of it
    assert wrongest_slice(reference, [prediction], None) == 0


def test_errors_are_told_apart_and_what_is_ignored_does_not_count():
    reference, prediction = np.array([[0, 1, 1, 2, 9]]), np.array([[1, 0, 2, 2, 0]])
    layer = overlays._errors(reference, prediction, Labelling(labels={"background": 0, "a": 1, "b": 2}))
    missed, extra, other = (tuple(bytes.fromhex(colour[1:])) for colour in overlays._ERRORS.values())
    assert [tuple(rgba[:3]) for rgba in layer[0, :3].tolist()] == [extra, missed, other]
    assert layer[0, 3:, 3].tolist() == [0, 0]


def test_cases_that_cannot_be_drawn_are_named(pairs, tmp_path):
    scores = evaluate(pairs, SCORING)
    with pytest.raises(ValueError, match="Cannot draw case c9: a has no prediction of it"):
        overlay_figure({"a": pairs}, scores, BOTH, tmp_path / "o.png", cases=["c9"])
    bare = [Pair(case=p.case, prediction=p.prediction, reference=p.reference) for p in pairs]
    with pytest.raises(ValueError, match="c3: a has no image of it"):
        overlay_figure({"a": bare}, scores, BOTH, tmp_path / "o.png", cases=1)


def test_the_fullest_slice():
    label = np.zeros((4, 5, 5), int)
    assert fullest_slice(label, [label]) == 2
    predicted = label.copy()
    predicted[1, 2] = 1
    assert fullest_slice(label, [predicted]) == 1
    label[3, 2, 2] = 1
    assert fullest_slice(label, [predicted]) == 3


def test_pictures_have_colours_only_for_three_channels():
    channels = np.random.default_rng(0).random((3, 6, 5))
    assert picture_of(channels).shape == (6, 5, 3) and np.ptp(picture_of(channels), axis=2).max() > 0
    assert np.ptp(picture_of(channels[:2]), axis=2).max() == 0
    assert (picture_of(np.zeros((1, 4, 4))) == 0).all()


def test_wandb_gets_the_worst_case_first_offline(pairs, tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    scores = evaluate(pairs, SCORING)
    logged = {}
    run = wandb.init(project="test", dir=str(tmp_path), settings=wandb.Settings(console="off"))
    original = run.log
    monkeypatch.setattr(run, "log", lambda values: (logged.update(values), original(values)))
    log_predictions(run, scores, pairs, SCORING, max_pictures=2)
    run.finish()
    table = logged["test/cases"]
    assert [row[0] for row in table.data] == ["c3", "c2", "c1", "c0"]
    assert [row[1] is not None for row in table.data] == [True, True, False, False]
    assert table.columns[-2:] == ["dsc_liver", "dsc_spleen"]
    assert set(table.data[0][1]._masks) == {"reference", "prediction"}
    assert logged["test/classes"].get_column("class") == ["liver", "spleen", "all"]
    assert list(tmp_path.rglob("*cases*.table.json"))
    assert [picture._caption for picture in logged["test/overlays"]] == ["c3", "c2"]
    media = [path for path in tmp_path.rglob("overlays*.png") if "mask" not in path.parts]
    assert len(media) == 2 and len([*tmp_path.rglob("mask/**/overlays*.png")]) == 3  # the references are equal


def test_wandb_gets_pictures_of_one_size(pairs, monkeypatch):
    import wandb

    drawn = []
    monkeypatch.setattr(wandb, "Image", lambda picture, masks, caption=None: drawn.append((picture, masks)))
    monkeypatch.setattr(wandb, "Table", MagicMock())
    for path in (pairs[0].images[0], pairs[0].reference, pairs[0].prediction):
        sitk.WriteImage(sitk.ReadImage(str(path))[:15, :, :], str(path))
    log_predictions(MagicMock(), evaluate(pairs, SCORING), pairs, SCORING)
    assert {picture.shape for picture, _ in drawn} == {(24, 20, 3)}
    assert {mask["mask_data"].shape for _, masks in drawn for mask in masks.values()} == {(24, 20)}
    narrow = [picture for picture, _ in drawn if not picture[:, 15:].any()]
    assert len(narrow) == 2 and all(picture[:, :15].any() for picture in narrow)  # in the table, and alone


def test_tensorboard_gets_the_test_scores(pairs, tmp_path):
    scores = evaluate(pairs, SCORING)
    log_scores([TensorBoardLogger(tmp_path, "", "")], scores, pairs, SCORING)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"test/dsc", "test/nsd", "hp_metric"} <= set(events.Tags()["scalars"])
    assert events.Scalars("hp_metric")[-1].value == pytest.approx(events.Scalars("test/dsc")[0].value)


def test_an_unreachable_wandb_costs_a_warning(pairs, caplog):
    class Unreachable(WandbLogger):
        def __init__(self) -> None:
            pass

        def log_metrics(self, metrics, step=None) -> None:
            raise ConnectionError("no route to host")

    scores = evaluate(pairs, SCORING)
    log_scores([Unreachable()], scores, pairs, SCORING)
    assert "W&B did not take the test scores (no route to host)" in caplog.text


def test_where_no_case_has_a_score_the_cases_are_drawn_all_the_same(tmp_path):
    empty, image = np.zeros((24, 24), np.uint8), np.random.default_rng(0).integers(0, 90, (24, 24)).astype(np.uint8)
    for name, array in (("image", image), ("prediction", empty), ("reference", empty)):
        skio.imsave(tmp_path / f"{name}.png", array, check_contrast=False)
    paths = {name: tmp_path / f"{name}.png" for name in ("prediction", "reference")}
    pair = Pair(case="a", images=(tmp_path / "image.png",), **paths)
    cells = Scoring(labels={"background": 0, "interior": 1, "boundary": 2}, file_ending=".png", task="instances")
    scores = evaluate([pair], cells)
    assert scores["f1"].isna().all() and choose_cases(scores, 4) == ["a"]
    assert overlay_figure({"prediction": [pair]}, scores, {"prediction": cells}, tmp_path / "o.png") == ["a"]
    scores = scores.assign(f1=np.nan)
    both = pd.concat([scores, scores.assign(case="b", f1=0.5)])
    assert choose_cases(both, 4) == ["b"]
