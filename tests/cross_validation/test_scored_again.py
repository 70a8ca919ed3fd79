"""A cross-validation that is asked for again with another tolerance or growth is scored so, and compared so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage import io as skio

from tests.cross_validation.made_folds import make_folds, plan_of
from tests.inference.small import make_plan
from tests.miniatures import make_pictures, make_volumes
from umamba.cross_validation.best import find_best
from umamba.cross_validation.folds import PoolOptions
from umamba.cross_validation.pooled import pool
from umamba.evaluation.report.runs import gather
from umamba.evaluation.standard import score_instances
from umamba.inference.predictor import Predictor
from umamba.planning.plan import Plan
from umamba.raw.instances import classes_to_instances

CPU = PoolOptions(device="cpu", workers=0)
CELLS = make_plan(("grey",), 3, (8, 8), ".png").to_dict()
CELLS |= {"labels": {"background": 0, "interior": 1, "boundary": 2}, "num_training": 5}


def asked(**scoring) -> PoolOptions:
    return dataclasses.replace(CPU, scoring=scoring)


def tolerances(folder: Path) -> set[float]:
    return set(pd.read_csv(folder / "tables" / "scores.csv")["nsd_tolerance"])


def test_another_tolerance_is_that_of_the_pool(tmp_path: Path, monkeypatch) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=5, labels=("class_1",))
    folder = tmp_path / "cv"
    checkpoints = make_folds(raw, folder)
    pool(checkpoints, folder, CPU)
    assert tolerances(folder) == {2.0}
    monkeypatch.setattr(Predictor, "_segment", lambda *_, **__: pytest.fail("predicted again"))
    pool(checkpoints, folder, asked(nsd_tolerance=0.5))
    assert tolerances(folder) == {0.5}
    written = (folder / "ensemble.json").stat().st_mtime_ns
    pool(checkpoints, folder, asked(nsd_tolerance={"class_1": 0.5}))
    assert (folder / "ensemble.json").stat().st_mtime_ns == written


def test_means_of_two_are_scored_as_the_two_were(tmp_path: Path) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=5, labels=("class_1",))
    for name, spacing in (("fine", 1.0), ("coarse", 1.5)):
        checkpoints = make_folds(raw, tmp_path / name, (0, 1), plan_of(spacing=spacing))
        pool(checkpoints, tmp_path / name, asked(nsd_tolerance=0.5))
    find_best([tmp_path / "fine", tmp_path / "coarse"], tmp_path / "best", CPU)
    assert tolerances(tmp_path / "best") == {0.5}


@pytest.fixture
def cells(tmp_path: Path, monkeypatch) -> Path:
    """Pictures of cells, of which every network finds rather little."""
    raw, segment = make_pictures(tmp_path / "Dataset951_Cells", instances=True), Predictor._segment

    def find_little(self: Predictor, *arguments, **options):
        made = segment(self, *arguments, **options)
        made.label[:] = 2
        made.label[:, 8:20, 8:20], made.label[:, 30:40, 33:47] = 1, 1
        return made

    monkeypatch.setattr(Predictor, "_segment", find_little)
    return raw


def record_of(folder: Path) -> dict:
    return json.loads((folder / "tables" / "run.json").read_text())


def check_rows(scores: pd.DataFrame, raw: Path, made: Path, grow: float) -> None:
    """See that scores are those of the label maps below a folder, grown so far."""
    assert len(scores)
    for row in scores.to_dict("records"):
        reference = skio.imread(raw / "instancesTr" / f"{row['case']}.tif").astype(np.int32)
        (path,) = made.glob(f"*/{row['case']}.png")
        expected = score_instances(reference, classes_to_instances(skio.imread(path), grow=grow))[0]
        assert row["f1_50_95"] == pytest.approx(expected["f1_50_95"])
        assert row["false_positives"] == expected["false_positives"]


def test_another_growth_is_that_of_the_pool(cells: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    checkpoints = make_folds(cells, folder, (0, 1), Plan.from_dict(CELLS), task="instances", grow=2)
    for options, grow in ((CPU, 2), (asked(grow=0), 0), (asked(grow=1), 1)):
        pool(checkpoints, folder, options)
        assert record_of(folder)["options"]["grow"] == grow
        check_rows(pd.read_csv(folder / "tables" / "scores.csv"), cells, folder / "out_of_fold", grow)
        for name in ("summary", "over_folds"):
            text = (folder / "tables" / f"{name}.md").read_text()
            assert ("grown by" in text) == (grow > 0) and (not grow or f"grown by {grow} px" in text)
    (run,) = gather([folder])
    assert run.facts["grow"] == 1


def test_the_best_is_chosen_among_what_was_grown_alike(cells: Path, tmp_path: Path) -> None:
    plan, folders = Plan.from_dict(CELLS), [tmp_path / "a", tmp_path / "b"]
    made = [
        make_folds(cells, folder, (0, 1), plan, task="instances", network=network)
        for folder, network in zip(folders, ("nnunet", "resenc"), strict=True)
    ]
    pool(made[0], folders[0], asked(grow=2))
    pool(made[1], folders[1], CPU)
    with pytest.raises(
        ValueError, match=r"a/tables was scored with data\.grow=2, .*b/tables with data\.grow=0\. Score"
    ):
        find_best(folders, tmp_path / "best", CPU)
    pool(made[1], folders[1], asked(grow=2))
    find_best(folders, tmp_path / "best", CPU)
    table = pd.read_csv(tmp_path / "best" / "tables" / "scores.csv")
    assert table["run"].nunique() == 3
    check_rows(table[table["run"].str.contains(r"\+")], cells, tmp_path / "best" / "pairs", 2)
    assert "grown by 2 px" in (tmp_path / "best" / "tables" / "summary.md").read_text()
