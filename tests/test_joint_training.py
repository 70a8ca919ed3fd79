"""Two data sets with different labels, trained, scored and predicted as one through the scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniatures import TINY, make_volumes, run

from umamba.raw.readers import read_label

ORGANS = ("liver", "kidney", "spleen")


def test_from_two_folders_to_scores_of_each(tmp_path: Path) -> None:
    make_volumes(tmp_path / "data" / "raw" / "Dataset901_A", labels=ORGANS, shape=(16, 20, 30))
    b = make_volumes(tmp_path / "data" / "raw" / "Dataset902_B", labels=("Ren (l)", "liver"), cases=6)
    both = tmp_path / "data" / "raw" / "Dataset903_AB"
    rename = r"data.rename={B: {Ren \(l\): kidney}}"
    options = ["data=joint", "data.sources=[901,902]", f"data.dataset_dir={both}", rename]
    refusal = run("train.py", *options, "model=nnunet", *TINY, folder=tmp_path, ok=False)
    assert "B has no spleen" in refusal and not both.exists()
    said = run("src/datamodules/prepare/__main__.py", *options, "data.missing=ignore", folder=tmp_path)
    assert "11 training cases" in said.replace("\n", " ")
    run(
        "train.py", *options, "data.missing=ignore", "model=nnunet", *TINY, "data.iterations_per_epoch=10",
        f"run_dir={tmp_path / 'run'}", folder=tmp_path,
    )  # fmt: skip

    scores = pd.read_csv(tmp_path / "run" / "tables" / "scores.csv")
    of_b = scores[scores["case"].str.startswith("B_")]
    assert set(of_b["class"]) == {"kidney", "liver"} and set(scores["class"]) == set(ORGANS)
    for row in of_b.itertuples():  # against all voxels of the data set's own labels: false positives count
        prediction, _ = read_label(tmp_path / "run" / "predictions" / f"{row.case}.nii.gz")
        reference, _ = read_label(b / "labelsTr" / f"{row.case.removeprefix('B_')}.nii.gz")
        p, r = prediction == 1 + ORGANS.index(row[3]), reference == ("kidney", "liver").index(row[3]) + 1
        assert row.dsc == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()), nan_ok=True)
        assert row.prediction_voxels == p.sum()
    table = pd.read_csv(tmp_path / "run" / "tables" / "per_source.csv")
    assert [*table["data set"].unique()] == ["A", "B"]
    for (source, name), part in table.groupby(["data set", "class"]):
        if name != "all":
            own = scores[scores["case"].str.startswith(source) & (scores["class"] == name)]
            np.testing.assert_allclose(part["dsc"], own["dsc"].mean())

    run(
        "eval.py",
        f"ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}",
        f"output={tmp_path / 'again'}",
        folder=tmp_path,
    )
    run(
        "eval.py", f"predictions={tmp_path / 'run/predictions'}", f"references={held_out(both, scores, tmp_path)}",
        f"dataset_json={both / 'dataset.json'}", "nsd_tolerance=2", f"output={tmp_path / 'stored'}", folder=tmp_path,
    )  # fmt: skip
    for folder in ("again", "stored"):
        again = pd.read_csv(tmp_path / folder / "tables" / "scores.csv")
        pd.testing.assert_frame_equal(again[scores.columns], scores)
        assert (tmp_path / folder / "tables" / "per_source.md").read_text().count("\n| B |") == 3


def held_out(folder: Path, scores: pd.DataFrame, tmp_path: Path) -> Path:
    """The references of what was scored, in a folder of their own."""
    (tmp_path / "references").mkdir()
    for case in scores["case"].unique():
        (tmp_path / "references" / f"{case}.nii.gz").symlink_to(folder / "labelsTr" / f"{case}.nii.gz")
    return tmp_path / "references"
