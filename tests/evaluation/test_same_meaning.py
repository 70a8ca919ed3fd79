"""Checkpoints and label maps are scored on data that mean the same by their numbers, and on nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from tests.evaluation.knowing import checkpoint_of, eval_config
from tests.inference.small import make_plan
from tests.miniatures import make_volumes
from umamba.evaluation import __main__ as script
from umamba.inference.predictor import Predictor

LABELS = {"background": 0, "class_1": 1, "class_2": 2}


def checkpoint(raw: Path) -> Path:
    """Of two classes and two channels, that knows the data set at `raw`."""
    return checkpoint_of(raw, "a.ckpt", make_plan(("T1", "T2"), classes=3))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "Dataset950_Small", channels=("T1", "T2"), labels=("class_1", "class_2"))


def other_data(raw: Path, **changes: Any) -> Path:
    """The same files with another dataset.json."""
    other = shutil.copytree(raw, raw.parent / "other")
    content = json.loads((raw / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, **changes}))
    return other


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": {"background": 0, "class_2": 1, "class_1": 2}}, "'class_1': 1.*'class_2': 2.*'class_2': 1"),
        ({"labels": {**LABELS, "class_3": 3}}, "labels.*'class_3': 3"),
        ({"labels": {"background": 0, "class_1": 1, "ignore": 2}}, "labels.*; ignore label None in .*, 2 there"),
        ({"labels": {**LABELS, "ignore": 3}}, "ignore label None in the checkpoint, 3 there"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "class_2": 2}, "regions_class_order": [1, 2]},
            r"regions \[\] in the checkpoint, \['whole = 1\+2, written 1', 'class_2 = 2, written 2'\] there",
        ),
        ({"channel_names": {"0": "T2", "1": "T1"}}, r"channels \['T1', 'T2'\] .*, \['T2', 'T1'\] there"),
    ],
)
def test_data_of_another_meaning_are_refused(raw: Path, monkeypatch, changes: dict[str, Any], told: str) -> None:
    monkeypatch.setattr(Predictor, "predict_cases", lambda *_, **__: pytest.fail("predicted"))
    path, other, out = checkpoint(raw), other_data(raw, **changes), raw.parent / "out"
    with pytest.raises(ValueError, match=f"(?s)a.ckpt was trained with another meaning .*other.*dataset.json.*{told}"):
        script.score_checkpoints(eval_config(out, f"ckpt_path={path}", f"data.dataset_dir={other}"))
    assert not out.exists()


def test_order_and_case_of_names_are_no_difference(raw: Path) -> None:
    labels = dict(reversed(LABELS.items()))
    other = other_data(raw, labels=labels, channel_names={"0": "t1", "1": "T2"}, name="Moved")
    out = raw.parent / "out"
    script.score_checkpoints(eval_config(out, f"ckpt_path={checkpoint(raw)}", f"data.dataset_dir={other}"))
    assert (out / "tables" / "scores.csv").is_file()


def predicted(raw: Path, **options: Any) -> Path:
    """Label maps of the first cases of a data set, as predict.py leaves them."""
    images, out = raw.parent / "images", raw.parent / "predictions"
    images.mkdir()
    for file in (raw / "imagesTr").glob("case_[01]_*"):
        shutil.copy2(file, images)
    Predictor.from_checkpoint(checkpoint(raw), "cpu").segment_files(images, out, **options)
    return out


def stored(predictions: Path, raw: Path, *overrides: str) -> DictConfig:
    """Of the predictions of two cases, and the references of these alone."""
    for file in (raw / "labelsTr").iterdir():
        if not (predictions / file.name).is_file():
            file.unlink()
    paths = (f"predictions={predictions}", f"references={raw / 'labelsTr'}")
    return eval_config(raw.parent / "out", *paths, "nsd_tolerance=1", *overrides)


@pytest.mark.parametrize("part", [(0, 1), (0, 2)])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": {"background": 0, "class_2": 1, "class_1": 2}}, "'class_1': 1, 'class_2': 2} there, {'class_2': 1"),
        ({"labels": {"background": 0, "class_1": 1, "liver": 2}}, "'class_2': 2} there, .*'liver': 2} here"),
        ({"labels": {**LABELS, "class_3": 3}}, "'class_3': 3} here"),
    ],
)
def test_predictions_know_their_label_values(raw: Path, part: tuple[int, int], changes: dict, told: str) -> None:
    out, other = predicted(raw, part=part), other_data(raw, **changes)
    with pytest.raises(ValueError, match=f"inference.*json says that the label maps .*other.dataset.json.*{told}"):
        script.score_folders(stored(out, other))
    assert not (raw.parent / "out").exists()
    script.score_folders(stored(out, raw))
    assert (raw.parent / "out" / "tables" / "scores.csv").is_file()


def test_classes_that_were_left_out_are_not_scored_as_missed(raw: Path) -> None:
    out = predicted(raw, labels=["class_1"])
    with pytest.raises(ValueError, match=r"labels {'class_1': 1} there, {'class_1': 1, 'class_2': 2} here"):
        script.score_folders(stored(out, raw))


def test_another_data_set_is_scored_on_request_alone(raw: Path, tmp_path: Path, caplog: Any) -> None:
    """Data sets are one by the name in dataset.json, or that of the folder, with nnU-Net's number or without."""
    out = predicted(raw)
    for name in ("small", "Elsewhere", "Dataset017_Small"):
        folder = shutil.copytree(raw, tmp_path / "elsewhere" / (name if name != "small" else "Hospital_B"))
        content = json.loads((raw / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**content, "name": name if name == "small" else "Hospital B"}))
        if name != "Elsewhere":
            script.score_folders(stored(out, folder))
            continue
        with pytest.raises(ValueError, match=r"trained on the data set Small; .* of Hospital B .*other_dataset=true"):
            script.score_folders(stored(out, folder))
        script.score_folders(stored(out, folder, "other_dataset=true"))
    assert "says what its label values mean" not in caplog.text


def test_predictions_of_others_are_taken_at_their_numbers_which_is_said(raw: Path, caplog: Any) -> None:
    out = predicted(raw)
    record = json.loads((out / "inference.json").read_text())
    del record["meaning"]  # as earlier versions wrote it
    for content in (json.dumps(record), None):
        (out / "inference.json").unlink() if content is None else (out / "inference.json").write_text(content)
        caplog.clear()
        script.score_folders(stored(out, raw))
        lines = [line for line in caplog.messages if "says what its label values mean" in line]
        assert len(lines) == 1 and "\n" not in lines[0] and "'class_2': 2" in lines[0]
    caplog.clear()
    (out / "dataset.json").write_text('{"labels": {"background": 0, "class_1": [1], "class_2": 2, "ignore": 3}}')
    script.score_folders(stored(out, raw))
    assert "says what its label values mean" not in caplog.text
    for content, told in {
        '{"labels": {"background": 0, "class_1": 2, "class_2": 1}}': r"dataset\.json says that .*'class_1': 2",
        '{"labels": {"background": 0, "class_1": 1, "class_2": 2}, "name": "B"}': "trained on the data set B; ",
        '{"labels": ': r"dataset\.json is no dataset\.json .*remove it",
        "[]": r"dataset\.json is no dataset\.json .*remove it",
    }.items():
        (out / "dataset.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            script.score_folders(stored(out, raw))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("meaning", value) for value in (None, [], {}, {"labels": None, "regions": {}, "dataset": "Small"})),
        ("trained_on", {"case_0": "yess"}),  # neither seen nor unseen
        ("images", {"../case_0": []}),
        ("seconds", {"case_0": "1"}),
    ],
)
def test_a_record_that_is_none_is_named(raw: Path, key: str, value: Any) -> None:
    out = predicted(raw)
    record = json.loads((out / "inference.json").read_text())
    (out / "inference.json").write_text(json.dumps({**record, key: value}))
    with pytest.raises(ValueError, match=r"inference\.json is no record of a prediction .*Predict again, or remove it"):
        script.score_folders(stored(out, raw))
