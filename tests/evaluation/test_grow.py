"""Instances grown back over their boundary class: laws and closed forms, and what is recorded, followed and refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.composed import composed
from tests.evaluation.scored_runs import make_run
from tests.inference.small import make_plan, save_checkpoint
from tests.miniatures import make_pictures
from umamba.datamodules.custom import CustomDataModule
from umamba.datamodules.phantom import PhantomCellsDataModule, PhantomDataModule
from umamba.datamodules.prepare.nuclei import is_test
from umamba.datamodules.prepare.phantom_cells import make_cells
from umamba.evaluation import __main__ as script
from umamba.evaluation.before_training import is_tested
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.runs import gather
from umamba.evaluation.standard import score_instances
from umamba.inference.predictor import Predictor
from umamba.planning.plan import Plan
from umamba.raw.instances import classes_to_instances, grow_pixels, instances_to_classes
from umamba.raw.readers import read_label
from umamba.run.compare import may_differ


def row_of(instances: np.ndarray, grow: float) -> dict:
    """The scores of a perfect three-class map."""
    return score_instances(instances, classes_to_instances(instances_to_classes(instances), grow=grow))[0]


def square(side: int) -> np.ndarray:
    instances = np.zeros((side + 20, side + 20), np.int32)
    instances[10 : 10 + side, 10 : 10 + side] = 1
    return instances


@pytest.mark.parametrize("side", [8, 9, 12, 16, 31])
def test_the_overlap_of_a_square_is_as_worked_out_by_hand(side: int) -> None:
    inner = side - 4  # side of its interior; the boundary takes 2 px, and 1 px around without the corners
    areas = {
        0: inner**2,
        1: inner**2 + 4 * inner,
        1.5: (inner + 2) ** 2,
        2: inner**2 + 8 * inner + 4,  # of each corner of 2 x 2 the pixel next to the interior
        3: side**2 + 4 * inner,
    }
    for grow, area in areas.items():
        row = row_of(square(side), grow)
        iou = min(area, side**2) / max(area, side**2)
        assert row["true_positives"] == (iou >= 0.5), grow
        assert row["panoptic_quality"] == pytest.approx(iou * (iou >= 0.5)), grow


def test_growing_by_nothing_is_none_and_more_never_takes_a_pixel_away() -> None:
    _, instances = make_cells(0, 1)
    classes = instances_to_classes(instances)
    maps = [classes_to_instances(classes, grow=grow) for grow in (0, 1, 2, 3, 50)]
    np.testing.assert_array_equal(maps[0], classes_to_instances(classes))
    for smaller, larger in itertools.pairwise(maps):
        np.testing.assert_array_equal(larger[smaller > 0], smaller[smaller > 0])
    assert all(((grown > 0) <= (classes > 0)).all() and grown.max() == maps[0].max() for grown in maps)


def test_switches_of_old_are_pixels() -> None:
    classes = instances_to_classes(square(12))
    for old, new in ((True, 2), (False, 0), (2.0, 2)):
        np.testing.assert_array_equal(*(classes_to_instances(classes, grow=grow) for grow in (old, new)))
        assert grow_pixels(old) == new and isinstance(grow_pixels(old), int)
    for wrong in (-1, float("inf"), float("nan"), "2", None, [2]):
        with pytest.raises(ValueError, match="grow is .*; expected a number of pixels, 0 or more"):
            grow_pixels(wrong)


@pytest.mark.data
def test_a_perfect_map_of_the_nuclei_reaches_what_the_documentation_says(real_data: Path) -> None:
    folder = real_data / "nuclei_dsb2018" / "instances"
    paths = [path for path in sorted(folder.glob("*.png")) if is_test(path.stem)]
    found = [[row_of(read_label(path)[0][0], grow)["f1"] for grow in (0, 2)] for path in paths]
    assert len(found) == 27
    assert np.round(np.mean(found, axis=0), 2).tolist() == [0.73, 0.94]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Instances, with a reference for each case."""
    return make_pictures(tmp_path / "Dataset951_Cells", instances=True)


def checkpoint(raw: Path, name: str, **data) -> Path:
    """Of an untrained network for instances."""
    plan = make_plan(("grey",), 3, (8, 8), ".png").to_dict()
    plan |= {"labels": {"background": 0, "interior": 1, "boundary": 2}, "num_training": 5}
    data = {
        "_target_": "umamba.datamodules.custom.CustomDataModule", "dataset_dir": str(raw), "task": "instances",
        "prepared_dir": str(raw.parent / "prepared"), "fold": 0, "augmentation": None, "configuration": "2d", **data,
    }  # fmt: skip
    config = {"data": data, "fold": 0, "seed": 0, "model_name": "nnunet"}
    return save_checkpoint(raw.parent / name / "checkpoints" / "last.ckpt", Plan.from_dict(plan), config=config)


@pytest.fixture
def perfect(monkeypatch, raw: Path) -> None:
    """Every network predicts the class map that it was trained with."""
    whole = Predictor.predict_cases

    def perfectly(self: Predictor, cases, output_dir, **options):
        made = whole(self, cases, output_dir, **options)
        for case in cases:
            shutil.copy(raw / "labelsTr" / f"{case.identifier}.png", output_dir)
        return made

    monkeypatch.setattr(Predictor, "predict_cases", perfectly)


def scored(output: Path, *overrides: str) -> dict:
    script.score_checkpoints(composed("eval", [f"output={output}", "workers=0", "device=cpu", *overrides]))
    return json.loads((output / "tables" / "run.json").read_text())


@pytest.mark.usefixtures("perfect")
def test_eval_follows_the_checkpoint_and_a_number_overrides_it(raw: Path, tmp_path: Path) -> None:
    plain, grown = checkpoint(raw, "plain"), checkpoint(raw, "grown", grow=2)
    for path, override, grow in ((plain, [], 0), (grown, [], 2), (plain, ["grow=1"], 1), (grown, ["grow=0"], 0)):
        output = tmp_path / f"{path.parent.parent.name}_{len(override)}"
        assert scored(output, f"ckpt_path={path}", *override)["options"]["grow"] == grow
        captions = [(output / "tables" / f"{name}.md").read_text() for name in ("summary", "per_class", "per_case")]
        assert all(("grown by" in text) == (grow > 0) for text in captions)
        assert all(f"Predicted instances are grown by {grow} px" in text for text in captions if grow)
        for row in pd.read_csv(output / "tables" / "scores.csv").to_dict("records"):
            instances = read_label(raw / "instancesTr" / f"{row['case']}.tif")[0][0]
            assert row["f1_50_95"] == pytest.approx(row_of(instances, grow)["f1_50_95"])


@pytest.mark.usefixtures("perfect")
def test_rows_of_one_table_are_grown_alike(raw: Path, tmp_path: Path) -> None:
    both = f"ckpt_path=[{checkpoint(raw, 'a')},{checkpoint(raw, 'b', grow=2)}]"
    with pytest.raises(ValueError, match=r"differ in grow \(px\): 0 and 2.*or give grow=\.\.\."):
        scored(tmp_path / "out", both)
    assert not (tmp_path / "out").exists()
    script.score_checkpoints(composed("eval", [f"output={tmp_path / 'out'}", "device=cpu", both, "grow=2"]))
    assert "grown by 2 px" in (tmp_path / "out" / "tables" / "summary.md").read_text()


def test_classes_do_not_grow(raw: Path, tmp_path: Path) -> None:
    arguments = {"dataset_dir": raw, "prepared_dir": tmp_path / "prepared"}
    for make in (CustomDataModule, PhantomDataModule):
        with pytest.raises(ValueError, match=r"data\.grow=2 grows predicted instances .* has none.*task semantic"):
            make(**arguments, grow=2)
        assert make(**arguments).grow == make(**arguments, grow=0).grow == 0
    with pytest.raises(ValueError, match=r"grow is -1; expected a number of pixels"):
        CustomDataModule(**arguments, task="instances", grow=-1)
    assert CustomDataModule(**arguments, task="instances", grow=1.5).grow == 1.5
    assert PhantomCellsDataModule(**arguments, grow=True).grow == 2
    assert may_differ("data.grow")


@pytest.mark.usefixtures("perfect")
def test_a_run_is_tested_with_the_growth_that_is_asked_for(raw: Path, tmp_path: Path) -> None:
    path = checkpoint(raw, "run", grow=2)
    scored(tmp_path / "scores", f"ckpt_path={path}")
    arguments = {"dataset_dir": raw, "prepared_dir": tmp_path / "prepared", "task": "instances"}
    for grow in (0, 1, 2):
        datamodule = CustomDataModule(**arguments, grow=grow)
        datamodule.open_raw()
        assert is_tested(path, tmp_path / "scores" / "tables", datamodule) == (grow == 2)


def test_the_report_never_puts_two_growths_into_one_row(tmp_path: Path) -> None:
    cells = {"classes": ("instances",), "dataset": "cells"}
    for folder, network, seed, options in (
        ("a", "umamba_bot", 0, {"grow": 2}), ("b", "umamba_bot", 1, {"grow": True}), ("c", "umamba_bot", 2, {}),
        ("d", "nnunet", 0, {"grow": False}), ("e", "nnunet", 1, {"grow": 0}),
    ):  # fmt: skip
        make_run(tmp_path / "runs" / folder, network=network, seed=seed, options=options, **cells)
    names = {run.folder.name: run.network for run in gather([tmp_path / "runs"])}
    assert names == {
        "a": "umamba_bot (grow=2)", "b": "umamba_bot (grow=2)", "c": "umamba_bot (grow=none)",
        "d": "nnunet (grow=none)", "e": "nnunet (grow=none)",
    }  # fmt: skip
    make_report([tmp_path / "runs"], tmp_path / "report")
    assert "grown by" not in (tmp_path / "report" / "tables" / "cells_results.md").read_text()


def test_the_report_says_how_far_all_were_grown(tmp_path: Path) -> None:
    for network in ("umamba_bot", "nnunet"):
        cells = {"classes": ("instances",), "dataset": "cell", "protocol": "paper/cells"}
        make_run(tmp_path / "runs" / network, network=network, options={"grow": 2}, **cells)
    make_report([tmp_path / "runs"], tmp_path / "report")
    for name in ("cell_results", "table_4"):
        assert "grown by 2 px over the boundary" in (tmp_path / "report" / "tables" / f"{name}.md").read_text()
