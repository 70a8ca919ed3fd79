"""A finished run counts as tested on the references and tolerances that its scores are of, and on no others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from tests.miniatures import TINY, make_volumes, run


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """With a labelled test case, in which one of two classes is absent."""
    raw = make_volumes(
        tmp_path_factory.mktemp("data") / "Dataset950_Small", cases=6, labels=("liver", "spleen"),
        present=lambda case, label: (case, label) != (5, 2),
    )  # fmt: skip
    for kind in ("images", "labels"):
        (raw / f"{kind}Ts").mkdir()
        for file in (raw / f"{kind}Tr").glob("case_5*"):
            file.rename(raw / f"{kind}Ts" / file.name)
    return raw


def with_another_reference(raw: Path) -> Path:
    other = shutil.copytree(raw, raw.parent / "other" / raw.name)
    path = str(other / "labelsTs" / "case_5.nii.gz")
    label = sitk.GetArrayFromImage(sitk.ReadImage(path))
    sitk.WriteImage(sitk.GetImageFromArray(np.roll(label, 4, axis=2)), path)
    return other


def test_a_finished_run_is_tested_again_where_its_scores_would_be_others(raw: Path) -> None:
    folder = raw.parent
    train = [*TINY, "model=nnunet", "trainer.max_epochs=1", f"data.prepared_dir={folder / 'prepared'}", "run_dir=run"]
    record = folder / "run" / "tables" / "run.json"
    run("train.py", "data=custom", f"data.dataset_dir={raw}", *train, folder=folder)
    before = json.loads(record.read_text())["cases"]
    scores = folder / "run" / "tables" / "scores.csv"
    for same in ([], [f"data.dataset_dir={shutil.copytree(raw, folder / 'moved' / raw.name)}"]):
        written = record.stat().st_mtime_ns
        assert "It has been tested too" in run("train.py", "run_dir=run", *same, folder=folder)
        assert record.stat().st_mtime_ns == written

    other = with_another_reference(raw)
    output = run("train.py", "run_dir=run", f"data.dataset_dir={other}", folder=folder)
    assert "has been trained to its end" in output and "tested too" not in output
    after = json.loads(record.read_text())
    assert after["cases"] != before and after["pairs"][0]["reference"].startswith(str(folder / "other"))

    image, before = other / "imagesTs" / "case_5_0000.nii.gz", scores.read_text()
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(image))
    written = image.stat()
    sitk.WriteImage(sitk.GetImageFromArray(np.roll(voxels, 5, axis=2)), image)  # under the same label
    os.utime(image, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert "tested too" not in run("train.py", "run_dir=run", f"data.dataset_dir={other}", folder=folder)
    assert scores.read_text() != before

    assert "tested too" not in run("train.py", "run_dir=run", "+data.nsd_tolerance=5", folder=folder)
    assert set(pd.read_csv(scores)["nsd_tolerance"]) == {5.0}
