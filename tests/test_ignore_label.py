"""Scribbles: most voxels carry the ignore label, in training and in scoring, for classes and for regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from miniatures import TINY, make_tumours, make_volumes, run

from umamba.planning.store import Store
from umamba.raw.checks import check_case
from umamba.raw.dataset import RawDataset
from umamba.raw.readers import read_label, write_label

IGNORED = 4
OPTIONS = [
    "data=custom", "data.configuration=3d_fullres", *TINY, "data.patch_size=[16,16,16]", "model=nnunet",
    "trainer.max_epochs=3", "data.iterations_per_epoch=15", "data.val_iterations=2", "data.planning.base_features=8",
]  # fmt: skip


def scribbles(case: int, label: np.ndarray) -> np.ndarray:
    """What is ignored of a dense label map: all but a line through each class, on some slices."""
    kept = np.zeros(label.shape, bool)
    random = np.random.default_rng(case)
    for z in range(case % 2, len(label), 2):
        for value in np.unique(label[z]):
            rows = np.flatnonzero((label[z] == value).any(axis=1))
            for y in random.choice(rows, min(2, len(rows)), replace=False):
                kept[z, y] |= label[z, y] == value
    return ~kept


def with_scribbles(folder: Path) -> Path:
    """A class and the background; the ignore label is not the next number."""
    make_volumes(folder)
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"]["ignore"] = IGNORED
    (folder / "dataset.json").write_text(json.dumps(content))
    for case, path in enumerate(sorted((folder / "labelsTr").iterdir())):
        image = sitk.ReadImage(str(path))
        label = sitk.GetArrayFromImage(image)
        label[scribbles(case, label)] = IGNORED
        sparse = sitk.GetImageFromArray(label)
        sparse.CopyInformation(image)
        sitk.WriteImage(sparse, str(path))
    return folder


def tumours(folder: Path) -> Path:
    return make_tumours(folder, ignore=scribbles)


CLASSES = {"liver": (1,)}
REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


@pytest.mark.parametrize(("make", "classes"), [(with_scribbles, CLASSES), (tumours, REGIONS)])
def test_scribbles_from_raw_data_to_scores(make, classes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    dataset = make(tmp_path / "Dataset903_Scribbles")
    run("train.py", *OPTIONS, f"data.dataset_dir={dataset}", f"run_dir={tmp_path / 'run'}", folder=tmp_path)
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    losses = metrics["train/loss"].dropna()
    assert np.isfinite(losses).all() and losses.iloc[-1] < losses.iloc[0]
    assert {f"val/dice_{name}" for name in classes} <= {*metrics.columns} and metrics["val/dice"].max() > 0.3

    (store,) = (tmp_path / "data" / "prepared" / dataset.name).glob("3d_fullres-*")
    for name in Store.open(store).identifiers:
        case = Store.open(store).case(name)
        label = case.label[:]
        assert (label == IGNORED).mean() > 0.5
        for number, values in enumerate(classes.values(), start=1):
            drawn = label[tuple(case.class_locations[number].T)]
            assert len(drawn) and np.isin(drawn, values).all()
        assert len(case.annotated_locations) and (label[tuple(case.annotated_locations.T)] != IGNORED).all()

    scores = pd.read_csv(tmp_path / "run" / "tables" / "scores.csv").set_index("class")
    (name,) = scores["case"].unique()
    reference, _ = read_label(dataset / "labelsTr" / f"{name}.nii.gz")
    prediction, _ = read_label(tmp_path / "run" / "predictions" / f"{name}.nii.gz")
    assert IGNORED not in prediction and prediction.any()
    counted = reference != IGNORED
    for label, values in classes.items():
        p, r = np.isin(prediction[counted], values), np.isin(reference[counted], values)
        assert scores.loc[label, "dsc"] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
        assert scores.loc[label, "reference_voxels"] == r.sum()


def test_a_case_that_is_ignored_but_for_background_is_said(tmp_path: Path) -> None:
    dataset = RawDataset.open(with_scribbles(tmp_path / "Dataset903_Scribbles"))
    case = dataset.training_cases[0]
    label, geometry = read_label(case.label_file)
    write_label(np.where(label == 1, 0, label), case.label_file, geometry)
    (finding,) = check_case(case, dataset)
    assert (finding.kind, finding.severity) == ("empty", "warning") and "has no foreground" in finding.message
    assert check_case(dataset.training_cases[1], dataset) == []
