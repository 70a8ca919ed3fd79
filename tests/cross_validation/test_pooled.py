"""Folds scored as one: each case by the network that did not see it, SD over folds, rules, and the ensemble of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cross_validation.made_folds import make_fold, make_folds, plan_of
from tests.miniatures import make_volumes
from umamba.cross_validation.folds import PoolOptions
from umamba.cross_validation.pooled import pool
from umamba.datamodules.splits import make_splits
from umamba.evaluation.report.runs import gather
from umamba.files import UNFINISHED
from umamba.inference.averaged import predictor_of
from umamba.inference.predictor import Predictor
from umamba.raw.readers import read_label

CPU = PoolOptions(device="cpu", workers=0)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "Dataset950_Small", cases=5, labels=("class_1",))


def test_each_case_is_predicted_by_the_network_that_held_it_out(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    checkpoints = make_folds(raw, folder, (0, 1, 2, 3, 4))
    killed = folder / "out_of_fold" / "fold_1" / f"{UNFINISHED}1-case_1.nii.gz"  # which wrote this
    killed.parent.mkdir(parents=True)
    killed.touch()
    path = pool(checkpoints, folder, CPU)
    assert not list(folder.rglob(f"{UNFINISHED}*"))
    splits = make_splits([f"case_{index}" for index in range(5)])
    content = json.loads(path.read_text())
    assert [fold["cases"] for fold in content["folds"]] == [list(split.val) for split in splits]
    for fold, split in enumerate(splits):
        alone = Predictor.from_checkpoint(checkpoints[fold], device="cpu")
        for case in split.val:
            expected, _ = alone.predict([raw / "imagesTr" / f"{case}_0000.nii.gz"])
            found, _ = read_label(folder / "out_of_fold" / f"fold_{fold}" / f"{case}.nii.gz")
            np.testing.assert_array_equal(found, expected)
    scores = pd.read_csv(folder / "tables" / "scores.csv")
    assert sorted(scores["case"]) == content["fitted_on"] == [f"case_{index}" for index in range(5)]
    assert content["pooled"]["mean_dsc"] == pytest.approx(scores["dsc"].mean())
    assert {one.hashes for one in [predictor_group(path)]} == {
        tuple(m["hash"] for m in content["groups"][0]["members"])
    }


def predictor_group(path: Path):
    from umamba.inference.ensemble import read_ensemble

    (group,) = read_ensemble(path).groups
    return group


def test_the_sd_is_that_of_the_folds_means(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    make_volumes(tmp_path / "Dataset951_More", cases=7, labels=("class_1",))
    more = tmp_path / "Dataset951_More"
    plan = plan_of(cases=7)
    pool(make_folds(more, folder, (0, 1, 4), plan), folder, CPU)
    by_fold = pd.read_csv(folder / "tables" / "folds.csv")
    assert by_fold["cases"].tolist() == [2, 2, 1] and by_fold["fold"].tolist() == [0, 1, 4]
    over = pd.read_csv(folder / "tables" / "over_folds.csv").iloc[0]
    scores = pd.read_csv(folder / "tables" / "scores.csv")
    assert over["dsc"] == pytest.approx(scores["dsc"].mean())
    assert over["dsc_sd"] == pytest.approx(by_fold["dsc"].std()) and over["folds"] == 3
    assert "SD of the means of 3 folds" in (folder / "tables" / "over_folds.md").read_text()


def test_the_report_knows_it_as_one_run_over_folds(raw: Path, tmp_path: Path) -> None:
    pool(make_folds(raw, tmp_path / "cv"), tmp_path / "cv", CPU)
    (run,) = gather([tmp_path / "cv"])
    assert (run.network, run.dataset) == ("nnunet", "Dataset950_Small, cross-validation")
    assert run.folds == ("0", "1", "2") and run.replicate == "folds 0 + 1 + 2, seed 0"


def test_nothing_is_done_twice_and_a_changed_fold_is_done_again(raw: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "cv"
    checkpoints = make_folds(raw, folder)
    path = pool(checkpoints, folder, CPU)
    before = path.read_bytes()
    predicted: list[str] = []
    segment = Predictor._segment

    def counted(self: Predictor, *arguments, **options):
        predicted.append(self.members[0].made_by()["weights_sha256"])
        return segment(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "_segment", counted)
    pool(checkpoints, folder, CPU)
    assert not predicted and path.read_bytes() == before
    (folder / "tables" / "run.json").unlink()  # interrupted before the end: what is predicted is kept
    pool(checkpoints, folder, CPU)
    assert not predicted
    make_fold(raw, folder, 1, seed=9)  # it was trained on
    pool(checkpoints, folder, CPU)
    assert len(predicted) == 1 and path.read_bytes() != before
    pool(checkpoints, folder, dataclasses.replace(CPU, mirror=True))
    assert len(predicted) == 1 + 3 and json.loads(path.read_text())["predict"].endswith("mirror=true")


def test_the_ensemble_of_the_folds_predicts(raw: Path, tmp_path: Path) -> None:
    checkpoints = make_folds(raw, tmp_path / "cv")
    predictor = predictor_of(pool(checkpoints, tmp_path / "cv", CPU), device="cpu", postprocessing=False)
    image = [raw / "imagesTr" / "case_0_0000.nii.gz"]
    expected, _ = Predictor.from_checkpoint(list(checkpoints.values()), device="cpu").predict(image)
    np.testing.assert_array_equal(predictor.predict(image)[0], expected)


def refused(raw: Path, tmp_path: Path, message: str, checkpoints: dict[int, Path]) -> None:
    with pytest.raises(ValueError, match=message):
        pool(checkpoints, tmp_path / "cv", CPU)
    assert not (tmp_path / "cv" / "ensemble.json").exists() and not (tmp_path / "cv" / "out_of_fold").exists()


def test_folds_of_different_plans_are_refused(raw: Path, tmp_path: Path) -> None:
    checkpoints = make_folds(raw, tmp_path / "cv", (0, 1))
    checkpoints[2] = make_fold(raw, tmp_path / "cv", 2, plan_of(spacing=2.0))
    message = r"(?s)Folds 0 and 2 .* have different plans:.*3d_fullres\.spacing: \[1\.0, 1\.0, 1\.0\] -> \[2\.0"
    refused(raw, tmp_path, message, checkpoints)


def test_folds_of_another_meaning_of_labels_are_refused(raw: Path, tmp_path: Path) -> None:
    checkpoints = make_folds(raw, tmp_path / "cv", (0, 1))
    checkpoints[2] = make_fold(
        raw, tmp_path / "cv", 2, dataclasses.replace(plan_of(), labels={"background": 0, "x": 1})
    )
    refused(raw, tmp_path, r"(?s)Folds 0 and 2 .* have different plans:.*labels\.x", checkpoints)


def test_folds_of_another_network_or_setting_are_refused(raw: Path, tmp_path: Path) -> None:
    checkpoints = make_folds(raw, tmp_path / "cv", (0, 1))
    checkpoints[2] = make_fold(raw, tmp_path / "cv", 2, network="resenc")
    refused(raw, tmp_path, r"fold_0.*fold_2.* differ in network", checkpoints)
    checkpoints[2] = make_fold(raw, tmp_path / "cv", 2, oversample=0.5)
    refused(raw, tmp_path, r"fold_0.*fold_2.* differ in data\.oversample", checkpoints)


def test_a_training_of_another_fold_is_refused(raw: Path, tmp_path: Path) -> None:
    checkpoints = make_folds(raw, tmp_path / "cv", (0, 1))
    shutil.copy(checkpoints[0], checkpoints[1])
    refused(raw, tmp_path, "was trained as fold 0, it stands for fold 1", checkpoints)


def test_folds_that_hold_out_the_same_case_are_refused(raw: Path, tmp_path: Path) -> None:
    every = [f"case_{index}" for index in range(5)]
    split = [{"train": every[1:], "val": every[:1]}, {"train": every[2:], "val": every[:2]}]
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "splits_final.json").write_text(json.dumps(split))
    refused(raw, tmp_path, "Folds 0 and 1 both hold out case_0", make_folds(raw, tmp_path / "cv", (0, 1)))


def test_a_missing_fold_is_named(raw: Path, tmp_path: Path) -> None:
    checkpoints = make_folds(raw, tmp_path / "cv")
    checkpoints[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*fold_2/checkpoints/last\.ckpt"):
        pool(checkpoints, tmp_path / "cv", CPU)
