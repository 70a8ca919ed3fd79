"""eval.py on stored predictions, and what it refuses before any work; test_end_to_end.py scores a checkpoint."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from inspect import unwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import tifffile
from omegaconf import DictConfig
from skimage import io as skio

from tests.composed import composed

script = importlib.import_module("umamba.evaluation.__main__")


def config(*overrides: str) -> DictConfig:
    return composed("eval", overrides)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2,
                    "file_ending": ".nii.gz"})
    )  # fmt: skip
    label = np.zeros((6, 12, 12), np.uint8)
    label[2:4, 3:9, 3:9] = 1
    for name, array in (("labelsTs", label), ("predictions", np.roll(label, 1, axis=2))):
        (tmp_path / name).mkdir()
        for case in ("a", "b"):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name / f"{case}.nii.gz"))
    return tmp_path


def stored(folders: Path, *more: str) -> DictConfig:
    paths = {"predictions": folders / "predictions", "references": folders / "labelsTs", "output": folders / "out"}
    return config(*(f"{key}={path}" for key, path in paths.items()), *more)


def test_stored_predictions_are_scored(folders, caplog):
    caplog.set_level(logging.INFO)
    script.score_folders(stored(folders, "nsd_tolerance={liver: 1.0}"))
    table = pd.read_csv(folders / "out" / "tables" / "per_class.csv").iloc[0]
    assert (table["class"], table["cases"], table["protocol"]) == ("liver", 2, "standard")
    assert table["dsc"] == pytest.approx(5 / 6) and table["nsd"] == 1 and table["hd95"] == 1
    assert "0.8333" in caplog.text


def test_a_label_set_that_differs_is_an_error(folders):
    (folders / "predictions" / "dataset.json").write_text('{"labels": {"background": 0, "spleen": 1}}')
    with pytest.raises(ValueError, match="'spleen': 1} there, {'liver': 1} here"):
        script.score_folders(stored(folders, "nsd_tolerance=1"))


def test_regions_of_stored_predictions_are_scored(folders):
    content = json.loads((folders / "dataset.json").read_text())
    content |= {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    (folders / "dataset.json").write_text(json.dumps(content))
    reference, prediction = np.zeros((2, 6, 12, 12), np.uint8)
    reference[2:4, 3:9, 3:9], prediction[2:4, 3:9, 3:9] = 1, 1
    reference[2:4, 3:6, 3:9], prediction[2:4, 6:9, 3:9] = 2, 2  # one whole, two cores
    for name, array in (("labelsTs", reference), ("predictions", prediction)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folders / name / "a.nii.gz"))
    script.score_folders(stored(folders, "nsd_tolerance={whole: 1.0, core: 0.5}"))
    scores = pd.read_csv(folders / "out" / "tables" / "scores.csv").set_index(["case", "class"])
    assert list(scores.loc["a", "dsc"]) == [1, 0] and list(scores.loc["a", "label"]) == ["1+2", "2"]
    assert scores.loc[("b", "whole"), "dsc"] == pytest.approx(5 / 6) and np.isnan(scores.loc[("b", "core"), "dsc"])
    assert list(pd.read_csv(folders / "out" / "tables" / "per_class.csv")["class"]) == ["whole", "core", "all"]
    with pytest.raises(ValueError, match="nsd_tolerance names liver; the classes are whole, core"):
        script.score_folders(stored(folders, "nsd_tolerance={whole: 1.0, core: 0.5, liver: 1.0}"))
    with pytest.raises(ValueError, match="Protocol paper knows no regions"):
        script.score_folders(stored(folders, "protocol=paper"))
    with pytest.raises(ValueError, match="task=instances counts objects of classes; .* regions whole, core"):
        script.score_folders(stored(folders, "task=instances"))
    content |= {"labels": {"background": 0, "core": [2], "all": [2, 1]}}
    (folders / "predictions" / "dataset.json").write_text(json.dumps(content | {"regions_class_order": [2, 1]}))
    with pytest.raises(ValueError, match="cannot express label 2"):
        script.score_folders(stored(folders, "nsd_tolerance=1"))
    content |= {"labels": {"background": 0, "all": [2, 1], "core": [2]}}
    (folders / "predictions" / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'all': \[1, 2\], 'core': \[2\]} there, {'whole': \[1, 2\]"):
        script.score_folders(stored(folders, "nsd_tolerance=1"))


def test_what_is_missing_is_named(folders):
    with pytest.raises(ValueError, match="Set nsd_tolerance to a number"):
        script.score_folders(stored(folders))
    with pytest.raises(ValueError, match=r"needs references=\.\.\."):
        script.score_folders(config("predictions=x", "output=y"))
    (folders / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset\.json does not exist"):
        script.score_folders(stored(folders, "nsd_tolerance=1"))


def test_options_that_contradict_each_other(tmp_path):
    for overrides in ([], ["ckpt_path=a.ckpt", "predictions=b"]):
        with pytest.raises(ValueError, match=r"either ckpt_path=\.\.\., or predictions"):
            unwrap(script.main)(config("output=x", *overrides))
    with pytest.raises(ValueError, match="needs cases=validation"):
        script.score_checkpoints(config("output=x", "ckpt_path=a.ckpt", "fit_postprocessing=true"))
    with pytest.raises(ValueError, match="names a checkpoint twice"):
        script.score_checkpoints(config("output=x", "ckpt_path=[a.ckpt,a.ckpt]"))
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*a\.ckpt"):
        script.score_checkpoints(config("output=x", "ckpt_path=a.ckpt"))


@pytest.mark.parametrize(
    "override",
    ["postprocessing=rules.json", "fit_postprocessing=true", "ensemble=true", "mirror=true", "cases=foo",
     "cases=validation", "device=cpu", "trusted=[mine]", "data.dataset_dir=x", "data.prepared_dir=x"],
)  # fmt: skip
def test_options_of_checkpoints_are_refused_beside_stored_predictions(folders, override):
    with pytest.raises(ValueError, match=rf"^{override.split('=')[0]} would do nothing beside predictions"):
        unwrap(script.main)(stored(folders, "nsd_tolerance=1", override))


@pytest.mark.parametrize("name", script.SWITCHES)
def test_switches_are_true_or_false(name):
    with pytest.raises(ValueError, match=rf"^{name}=maybe: expected true or false"):
        unwrap(script.main)(config("output=x", "ckpt_path=a.ckpt", f"{name}=maybe"))


@pytest.mark.parametrize(
    "override", ["references=x", "dataset_json=x", "nsd_tolerance=1", "task=instances", "instance_predictions=true"]
)
def test_options_of_stored_predictions_are_refused_beside_checkpoints(override):
    with pytest.raises(ValueError, match=rf"^{override.split('=')[0]} would do nothing beside ckpt_path"):
        unwrap(script.main)(config("output=x", "ckpt_path=a.ckpt", override))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nsd_tolerance={liver: 1, X: 3}"], "names X; the classes are liver"),
        (["nsd_tolerance={livver: 1}"], "names livver; the classes are liver"),
        (["nsd_tolerance=[1,2]"], "nsd_tolerance=.*: expected a number, named values or null"),
        (["nsd_tolerance=abc"], "nsd_tolerance=.*: expected a number, named values or null"),
        (["nsd_tolerance=inf"], "nsd_tolerance=.*: expected a number, named values or null"),
        (["nsd_tolerance=true"], "nsd_tolerance=.*: expected a number, named values or null"),
        (["nsd_tolerance=1", "workers=-1"], "workers is -1"),
        (["nsd_tolerance=1", "workers=many"], "workers is 'many'"),
        (["nsd_tolerance=1", "grow=true"], "grow=2 is for task=instances"),
        (["nsd_tolerance=1", "grow=1.5"], r"grow=1\.5 is for task=instances"),
        (["nsd_tolerance=1", "grow=-1"], "grow is -1; expected a number of pixels, 0 or more"),
        (["nsd_tolerance=1", "grow=some"], "grow=some: expected a number, true or false or null"),
        (["nsd_tolerance=1", "instance_predictions=true"], "instance_predictions=true is for task=instances"),
        (["nsd_tolerance=1", "protocol=paper"], "acts on task=semantic with protocol=standard alone"),
    ],
)
def test_options_that_would_not_act_on_these_data(folders, overrides, message):
    with pytest.raises(ValueError, match=message):
        unwrap(script.main)(stored(folders, *overrides))
    assert not (folders / "out").exists()


def test_label_maps_of_objects_and_of_classes_are_not_guessed(folders):
    """One of two objects has the values of interior and boundary."""
    description = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "interior": 1, "boundary": 2}}
    (folders / "dataset.json").write_text(json.dumps({**description, "numTraining": 1, "file_ending": ".png"}))
    objects = np.zeros((20, 30), np.uint8)
    objects[2:9, 2:12], objects[11:18, 15:27] = 1, 2
    for name in ("labelsTs", "predictions"):
        for old in (folders / name).iterdir():
            old.unlink()
    tifffile.imwrite(folders / "labelsTs" / "a.tif", objects)
    skio.imsave(folders / "predictions" / "a.png", objects, check_contrast=False)
    call = ["task=instances", f"dataset_json={folders / 'dataset.json'}"]
    with pytest.raises(ValueError, match="has no inference.json that says what the label maps are"):
        script.score_folders(stored(folders, *call))
    found = {}
    for kind in ("true", "false"):
        script.score_folders(stored(folders, *call, f"instance_predictions={kind}"))
        found[kind] = pd.read_csv(folders / "out" / "tables" / "scores.csv").iloc[0]["f1"]
    assert found == {"true": 1, "false": pytest.approx(2 / 3)}
    (folders / "predictions" / "inference.json").write_text("{}")
    with pytest.raises(ValueError, match=r"says that predict\.py made these label maps, which are of classes"):
        script.score_folders(stored(folders, *call, "instance_predictions=true"))
    script.score_folders(stored(folders, *call))


def test_parquet_without_pyarrow_is_refused_before_a_case_is_scored(folders, monkeypatch):
    monkeypatch.setattr(script, "evaluate", lambda *_, **__: pytest.fail("scored"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pyarrow"):
        unwrap(script.main)(stored(folders, "nsd_tolerance=1", "parquet=true"))
    with pytest.raises(ValueError, match="workers is -2"):
        unwrap(script.main)(config("output=x", "ckpt_path=a.ckpt", "workers=-2"))


def test_scoring_into_the_folder_of_a_run_removes_its_record(folders):
    tables = folders / "out" / "tables"
    tables.mkdir(parents=True)
    (tables / "run.json").write_text("{}")
    unwrap(script.main)(stored(folders, "nsd_tolerance=1"))
    assert (tables / "scores.csv").is_file() and not (tables / "run.json").exists()


def test_names_of_checkpoints_tell_them_apart():
    names = script._names([Path("logs/x/fold_0/checkpoints/last.ckpt"), Path("logs/x/fold_1/checkpoints/last.ckpt")])
    assert names == ["fold_0_checkpoints_last", "fold_1_checkpoints_last"]
    assert script._names([Path("logs/last.ckpt"), Path("logs/best.ckpt")]) == ["last", "best"]
