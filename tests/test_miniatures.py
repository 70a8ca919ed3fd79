"""Data sets of the shapes that a general data set has not: from raw data to scores through train.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from miniatures import TINY, make_pictures, make_volumes, run

from umamba.raw.readers import read_label

THREE_D = ["data=custom", "data.configuration=3d_fullres", *TINY, "data.patch_size=[16,16,16]"]
TWO_D = ["data=custom", "data.configuration=2d", *TINY, "data.patch_size=[32,32]"]


def binary_volumes(folder: Path) -> Path:
    return make_volumes(folder)


def binary_pictures(folder: Path) -> Path:
    return make_pictures(folder)


def instances(folder: Path) -> Path:
    return make_pictures(folder, instances=True)


def absent_in_the_fold(folder: Path) -> Path:
    """Two classes; fold 0 validates with one case of five, which lacks the second."""
    return make_volumes(folder, labels=("liver", "tumour"), present=lambda case, label: label == 1 or case != 0)


def four_channels(folder: Path) -> Path:
    return make_volumes(folder, channels=("T1", "T1ce", "T2", "FLAIR"), labels=("core", "oedema"))


def one_case(folder: Path) -> Path:
    return make_volumes(folder, cases=1)


def no_foreground_in_the_fold(folder: Path) -> Path:
    return make_volumes(folder, present=lambda case, label: case != 0)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (binary_volumes, THREE_D),
        (binary_volumes, [*THREE_D[:1], "data.configuration=2d", *TINY, "data.patch_size=[16,16]"]),
        (binary_pictures, TWO_D),
        (instances, [*TWO_D, "data.task=instances"]),
        (absent_in_the_fold, THREE_D),
        (no_foreground_in_the_fold, THREE_D),
        (four_channels, THREE_D),
        (one_case, [*THREE_D, "fold=all"]),
    ],
)
def test_from_raw_data_to_scores(make, options: list[str], tmp_path: Path) -> None:
    dataset = make(tmp_path / "Dataset001_Small")
    run("train.py", *options, f"data.dataset_dir={dataset}", f"run_dir={tmp_path / 'run'}", folder=tmp_path)
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["train/loss"].notna().sum() == metrics["val/loss"].notna().sum() == 2
    predictions = sorted(path for path in (tmp_path / "run" / "predictions").iterdir() if path.suffix != ".json")
    assert predictions
    scores = pd.read_csv(next((tmp_path / "run" / "tables").glob("*per_case*.csv")))
    assert sorted(scores["case"].unique()) == [path.name.split(".")[0] for path in predictions]

    predict = ["predict.py", f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"]
    run(*predict, f"input={dataset / 'imagesTr'}", f"output={tmp_path / 'out'}", folder=tmp_path)
    for path in predictions:
        np.testing.assert_array_equal(read_label(tmp_path / "out" / path.name)[0], read_label(path)[0])


def test_one_case_has_no_folds(tmp_path: Path) -> None:
    dataset = one_case(tmp_path / "Dataset001_Small")
    output = run("train.py", *THREE_D, f"data.dataset_dir={dataset}", folder=tmp_path, ok=False)
    assert "5 folds need at least 5 training cases, there are 1. Set fold=all" in output
    assert not list(tmp_path.rglob("plan.json")), "it must be said before anything is preprocessed"
