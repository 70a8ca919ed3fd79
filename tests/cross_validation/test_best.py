"""The best of several cross-validations and of the means of two: scored on unseen cases, chosen, and predicted with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from tests.cross_validation.made_folds import make_fold, make_folds, plan_of
from tests.evaluation.scored_runs import replace_scores
from tests.miniatures import make_volumes
from umamba.cross_validation import best
from umamba.cross_validation.best import find_best
from umamba.cross_validation.folds import PoolOptions
from umamba.cross_validation.pooled import pool
from umamba.evaluation.pairs import Pair
from umamba.evaluation.same_table import note_on_scores
from umamba.inference.averaged import predictor_of
from umamba.inference.predictor import Predictor
from umamba.raw.readers import read_label

CPU = PoolOptions(device="cpu", workers=0)
PLANS = {
    "fine": plan_of(classes=3),
    "coarse": plan_of(classes=3, spacing=1.5),
    "flat": plan_of(classes=3, patch=(8, 8)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A data set and cross-validations of it: another spacing, 2D, other folds, mirrored."""
    folder = tmp_path_factory.mktemp("best")
    raw = make_volumes(folder / "Dataset950_Small", cases=5, labels=("class_1", "class_2"))
    for name, plan in PLANS.items():
        pool(make_folds(raw, folder / name, (0, 1), plan), folder / name, CPU)
    pool(make_folds(raw, folder / "others", (2, 3), PLANS["fine"]), folder / "others", CPU)
    mirrored = PoolOptions(device="cpu", workers=0, mirror=True)
    pool(make_folds(raw, folder / "mirrored", (0, 1), PLANS["fine"]), folder / "mirrored", mirrored)
    return folder


def dice(one: np.ndarray, other: np.ndarray, value: int) -> float:
    total = (one == value).sum() + (other == value).sum()
    return float(2 * ((one == value) & (other == value)).sum() / total) if total else np.nan


def expected_pair(made: Path, names: tuple[str, str]) -> float:
    """nnU-Net's mean over classes of the means over cases, of the mean of probabilities, by hand."""
    found = []
    for fold in json.loads((made / names[0] / "ensemble.json").read_text())["folds"]:
        for case in fold["cases"]:
            probabilities = []
            for name in names:
                one = Predictor.from_checkpoint(
                    made / name / f"fold_{fold['fold']}/checkpoints/last.ckpt", device="cpu"
                )
                image = sitk.ReadImage(str(made / "Dataset950_Small" / "imagesTr" / f"{case}_0000.nii.gz"))
                array = sitk.GetArrayFromImage(image)
                probabilities.append(one.segment(array, spacing=(1, 1, 1), probabilities=True)[1].astype(np.float64))
            label = sum(probabilities).argmax(0)
            reference, _ = read_label(made / "Dataset950_Small" / "labelsTr" / f"{case}.nii.gz")
            found.append([dice(reference, label, value) for value in (1, 2)])
    return float(np.nanmean(np.nanmean(found, axis=0)))


def test_candidates_are_scored_on_unseen_cases_and_the_best_is_chosen(made: Path, tmp_path: Path) -> None:
    path = find_best([made / name for name in PLANS], tmp_path / "best", CPU)
    content = json.loads(path.read_text())
    means = {one["name"]: one["mean_dsc"] for one in content["candidates"]}
    folders = [tuple(Path(folder).name for folder in one["folders"]) for one in content["candidates"]]
    assert folders == [("fine",), ("coarse",), ("flat",), ("fine", "coarse"), ("fine", "flat"), ("coarse", "flat")]
    for names, mean in zip(folders, means.values(), strict=True):
        if len(names) == 1:
            own = json.loads((made / names[0] / "ensemble.json").read_text())
            assert mean == pytest.approx(own["pooled"]["mean_dsc"])
        elif "flat" not in names or names[0] == "fine":
            assert mean == pytest.approx(expected_pair(made, names), abs=2e-3)  # float16 on the way
    assert content["chosen"] == max(means, key=lambda name: means[name])
    table = pd.read_csv(tmp_path / "best" / "tables" / "scores.csv")
    assert list(table["run"].unique()) == list(means) and table.groupby("run")["case"].nunique().eq(2).all()
    assert content["predict"].startswith("python predict.py checkpoint=") and str(path) in content["predict"]
    assert not (tmp_path / "best" / "probabilities").exists()
    chosen = folders[list(means).index(content["chosen"])]
    assert [len(group["members"]) for group in content["groups"]] == [2] * len(chosen)


def test_the_chosen_pair_predicts(made: Path, tmp_path: Path, monkeypatch) -> None:
    from umamba.cross_validation import best

    monkeypatch.setattr(best.Candidate, "mean", property(lambda self: float(len(self.ensembles))))
    path = find_best([made / "fine", made / "flat"], tmp_path / "best", CPU, keep=True)
    content = json.loads(path.read_text())
    assert len(content["groups"]) == 2 and content["fitted_on"] == sorted(content["fitted_on"])
    assert len(list((tmp_path / "best" / "probabilities").rglob("*.npz"))) == 4
    predictor = predictor_of(path, device="cpu", postprocessing=False)
    image = made / "Dataset950_Small" / "imagesTr" / "case_0_0000.nii.gz"
    label, _ = predictor.predict([image])
    array, parts = sitk.GetArrayFromImage(sitk.ReadImage(str(image))), []
    for name in ("fine", "flat"):
        one = Predictor.from_checkpoint([made / name / f"fold_{f}/checkpoints/last.ckpt" for f in (0, 1)], device="cpu")
        parts.append(one.segment(array, spacing=(1, 1, 1), probabilities=True)[1].astype(np.float64))
    np.testing.assert_array_equal(label, sum(parts).argmax(0))
    with pytest.raises(ValueError, match="is of no cross-validation; it was chosen among some"):
        find_best([made / "fine", tmp_path / "best"], tmp_path / "again", CPU)


def test_of_equal_ones_the_first_single_one(made: Path, tmp_path: Path, monkeypatch) -> None:
    from umamba.cross_validation import best

    monkeypatch.setattr(best.Candidate, "mean", property(lambda self: 0.5))
    content = json.loads(find_best([made / "coarse", made / "fine"], tmp_path / "best", CPU).read_text())
    own = json.loads((made / "coarse" / "ensemble.json").read_text())
    assert content["chosen"] == content["candidates"][0]["name"] and content["keep_largest"] == own["keep_largest"]
    assert content["groups"][0]["members"][0]["hash"] == own["groups"][0]["members"][0]["hash"]


def test_without_pairs_nothing_is_predicted(made: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Predictor, "predict_cases", None)
    content = json.loads(find_best([made / "fine", made / "flat"], tmp_path / "best", CPU, pairs=False).read_text())
    assert len(content["candidates"]) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fine", "others"], "not on the same cases"),
        (
            ["fine", "mirrored"],
            r"fine/ensemble\.json was scored with mirror=false, .*mirrored/ensemble\.json with mirror=t",
        ),
        (["fine", "fine"], "runs names no folder, or one twice"),
        (["fine", "absent"], "There is no folder .*absent"),
        (["fine", "Dataset950_Small"], r"Dataset950_Small holds no ensemble\.json"),
    ],
)
def test_what_cannot_be_compared_is_refused(made: Path, tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_best([made / name for name in names], tmp_path / "best", CPU)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("pairs", [False, True])
def test_of_two_versions_of_the_images_nothing_is_compared(made: Path, tmp_path: Path, pairs: bool) -> None:
    raw = shutil.copytree(made / "Dataset950_Small", tmp_path / "Dataset950_Small")
    pool(make_folds(raw, tmp_path / "fine", (0, 1), PLANS["fine"]), tmp_path / "fine", CPU)
    held_out = json.loads((tmp_path / "fine" / "ensemble.json").read_text())["fitted_on"][0]
    path = raw / "imagesTr" / f"{held_out}_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path)) + 50, str(path))
    for also in ([], ["coarse"]):  # the image is another one now; and another network was scored on that one
        for name in also:
            pool(make_folds(raw, tmp_path / name, (0, 1), PLANS[name]), tmp_path / name, CPU)
        with pytest.raises(ValueError, match=rf"The images of {held_out} that .* was scored on are not (the|those of)"):
            find_best([tmp_path / name for name in ["fine", *also]], tmp_path / "best", CPU, pairs=pairs)
        assert not (tmp_path / "best").exists()


def test_a_fold_trained_on_since_and_a_changed_label_are_named(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "flat", tmp_path / "flat")
    make_fold(made / "Dataset950_Small", folder, 1, PLANS["flat"], seed=5)
    with pytest.raises(ValueError, match=r"flat/fold_1/checkpoints/last\.ckpt is another checkpoint"):
        find_best([made / "fine", folder], tmp_path / "best", CPU)
    raw = shutil.copytree(made / "Dataset950_Small", tmp_path / "Dataset950_Small")
    for name in ("fine", "coarse"):
        pool(make_folds(raw, tmp_path / name, (0, 1), PLANS[name]), tmp_path / name, CPU)
    held_out = json.loads((tmp_path / "fine" / "ensemble.json").read_text())["fitted_on"][0]
    path = raw / "labelsTr" / f"{held_out}.nii.gz"
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    label[0, 0, 0] = 2
    image = sitk.GetImageFromArray(label)
    sitk.WriteImage(image, str(path))
    from umamba.evaluation.record import content_of

    content_of.cache_clear()  # within one process files are taken not to change
    for pairs in (False, True):
        with pytest.raises(ValueError, match=rf"The reference of {held_out}, .* is not the one that .* was scored"):
            find_best([tmp_path / "fine", tmp_path / "coarse"], tmp_path / "best", CPU, pairs=pairs)
    assert not (tmp_path / "best" / "ensemble.json").exists()


def test_means_over_different_scores_are_told(made: Path, tmp_path: Path, caplog) -> None:
    """One case lacks a class, and one of the two finds some of it: it is the better one wherever the class is."""
    names = ("fine", "flat")
    for name, score in zip(names, (np.nan, 0.0), strict=True):
        tables = shutil.copytree(made / name, tmp_path / name) / "tables"
        scores = pd.read_csv(tables / "scores.csv").assign(dsc=0.9 if score == 0 else 0.8)
        scores.loc[scores.index[-1], "dsc"] = score
        replace_scores(tables, scores)
    said = []
    for some in (names, names[:1] * 2):
        rows = {str(index): pd.read_csv(tmp_path / name / "tables" / "scores.csv") for index, name in enumerate(some)}
        said.append(note_on_scores(rows))
    assert "over different scores (0: 3; 1: 4)" in said[0] and said[1] == ""
    with caplog.at_level("INFO"):
        path = find_best([tmp_path / name for name in names], tmp_path / "best", CPU, pairs=False)
    assert said[0].partition(")")[2] in " ".join(caplog.text.split())
    one, other = json.loads(path.read_text())["candidates"]
    assert one["mean_dsc"] > other["mean_dsc"]
    assert "over different scores" in (path.parent / "tables" / "summary.md").read_text()


@pytest.mark.parametrize("content", [b"", b"PK damaged", None])
def test_probabilities_that_are_damaged_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "case_1.npz"
    np.savez(path, logits=np.zeros(2)) if content is None else path.write_bytes(content)
    pair = Pair(case="case_1", prediction=tmp_path / "case_1.nii.gz", reference=tmp_path / "x.nii.gz")
    with pytest.raises(ValueError, match=rf"{path} is damaged, or holds no probabilities .*Remove it"):
        best._load(pair)
