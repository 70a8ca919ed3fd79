"""The data sets as data modules: their configs, the raw data they make or ask for, and folders taken as they are."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hydra.utils import get_class, instantiate

from tests.composed import composed
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import phantom, phantom_cells
from umamba.evaluation.pairs import pair_cases
from umamba.evaluation.scoring import Scoring
from umamba.locations import ROOT
from umamba.raw.dataset import RawDataset
from umamba.resolvers import register_resolvers
from umamba.targets import DATA_MODULES

register_resolvers()
CONFIGS = sorted(path.stem for path in (ROOT / "configs" / "data").glob("[!_]*.yaml"))
NEEDED = {"custom": ["data.dataset_dir=raw/Dataset123_Mine"], "decathlon": ["data.decathlon_task=Task09_Spleen"],
          "joint": ["data.sources=[raw/A,raw/B]", "data.dataset_dir=raw/Dataset123_Both"]}  # fmt: skip
ASKS = ("flare", "amos_mr", "amos_mr_2d", "endovis", "cell")  # behind a form, or too large to fetch unasked


def module(name: str, root: Path, *overrides: str):
    cfg = composed("prepare", [f"data={name}", f"paths.root={root}", *NEEDED.get(name, []), *overrides])
    return instantiate(cfg.data)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_instantiates_without_touching_the_disk(name: str, tmp_path: Path) -> None:
    data = module(name, tmp_path)
    assert data.task in ("semantic", "instances")
    assert (data.configuration == "2d") == (name in ("amos_mr_2d", "cell", "endovis", "nuclei", "phantom_cells"))
    assert data.prepared_dir == tmp_path / "data" / "prepared" / data.dataset_dir.name
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ASKS)
def test_what_cannot_be_fetched_is_asked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is missing\. .*https://.*data=.* source=.*U-Mamba's own folder"):
        module(name, tmp_path).prepare_data()


def test_custom_data_are_asked_for_and_checked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no raw data set at raw/Dataset123_Mine"):
        module("custom", tmp_path).prepare_data()
    with pytest.raises(Exception, match='expected "semantic" or "instances"'):
        module("custom", tmp_path, "data.task=panoptic")


@pytest.mark.parametrize("name", ["phantom", "phantom_cells"])
def test_the_phantoms_go_from_nothing_to_batches(name: str, tmp_path: Path) -> None:
    data = module(name, tmp_path, "data.num_workers=0", "data.iterations_per_epoch=2")
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[2:] == batch["label"].shape[1:] == tuple(data.plan_configuration.patch_size)
    assert batch["label"].min() >= 0 and batch["label"].max() < data.plan.num_classes
    assert all(case.label is not None for case in data.test_cases)
    assert not set(data.train_ids) & {case.identifier for case in data.test_cases}
    if data.task == "instances":
        assert all((data.dataset_dir / "instancesTs" / f"{case.identifier}.tif").is_file() for case in data.test_cases)


def test_nsd_tolerances_are_those_of_flare_and_named_as_the_classes() -> None:
    from umamba.datamodules.abdomen_ct import AbdomenCTDataModule
    from umamba.datamodules.abdomen_mr import AbdomenMRDataModule
    from umamba.raw.organs import ORGANS

    millimetres = {"liver": 5, "right kidney": 3, "spleen": 3, "pancreas": 5, "aorta": 2, "inferior vena cava": 2}
    millimetres |= {"right adrenal gland": 2, "left adrenal gland": 2, "gallbladder": 2, "esophagus": 3}
    millimetres |= {"stomach": 5, "duodenum": 7, "left kidney": 3}
    assert AbdomenCTDataModule.nsd_tolerance == AbdomenMRDataModule.nsd_tolerance == millimetres
    assert set(ORGANS) == set(millimetres)


def test_the_authors_cells_are_taken_as_they_are(tmp_path: Path) -> None:
    """Dataset703_NeurIPSCell: the test part is called Val, its instances lie in labelsVal-instance-mask."""
    folder = phantom_cells.prepare(None, tmp_path / "Dataset703_NeurIPSCell", num_training=2, num_test=1)
    shutil.rmtree(folder / "instancesTr")
    (folder / "imagesTs").rename(folder / "imagesVal")
    (folder / "labelsTs").rename(folder / "labelsVal")
    masks = folder / "labelsVal-instance-mask"
    (folder / "instancesTs").rename(masks)
    (masks / "cells_002.tif").rename(masks / "cells_002_label.tiff")
    (folder / "labelsVal" / "cells_002.png").rename(tmp_path / "cells_002.png")
    raw = RawDataset.open(folder)
    assert [(case.identifier, case.label) for case in raw.test_cases] == [("cells_002", None)]
    (tmp_path / "cells_002.png").rename(folder / "labelsVal" / "cells_002.png")
    raw = RawDataset.open(folder)
    scoring = Scoring(labels={"background": 0, "cell": 1}, file_ending=".png", task="instances")
    (pair,) = pair_cases(raw.test_cases, folder / "labelsVal", scoring)
    assert pair.reference == masks / "cells_002_label.tiff"


def test_a_folder_of_the_authors_is_taken_as_it_is(tmp_path: Path) -> None:
    """As Dataset702_AbdomenMR, whose dataset.json says 50 training cases where there are 60."""
    folder = tmp_path / "raw" / "Dataset702_AbdomenMR"
    phantom.prepare(None, folder, num_training=5, num_test=1)
    meta = json.loads((folder / "dataset.json").read_text())
    authors = {"channel_names": {"0": "MR"}, "numTraining": 4, "labels": meta["labels"], "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(authors))
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    data = module("amos_mr", tmp_path, f"paths.raw={tmp_path / 'raw'}", "data.planning.base_features=4")
    data.num_workers = 0
    data.prepare_data()
    assert len(data.train_ids) + len(data.val_ids) == 5
    assert [case.identifier for case in data.test_cases] == ["phantom_005"]
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


def test_a_mac_copy_of_the_authors_folder_works(tmp_path: Path) -> None:
    folder = phantom.prepare(None, tmp_path / "set", num_training=2, num_test=1)
    for path in list(folder.rglob("*.nii.gz")):
        (path.parent / f"._{path.name}").write_bytes(b"mac")
    assert len(RawDataset.open(folder).training_cases) == 2


@pytest.mark.data
def test_the_real_hippocampus_set_is_found_where_it_lies(real_data: Path, tmp_path: Path) -> None:
    if not (real_data / "Dataset004_Hippocampus").is_dir():
        pytest.skip(f"no {real_data / 'Dataset004_Hippocampus'}")
    source = tmp_path / "raw" / "Dataset004_Hippocampus"
    for name in ("imagesTr", "labelsTr"):  # ten cases of it: this is about finding, not about preprocessing
        (source / name).mkdir(parents=True)
        for path in sorted((real_data / "Dataset004_Hippocampus" / name).glob("*.nii.gz"))[:10]:
            shutil.copy(path, source / name)
    shutil.copy(real_data / "Dataset004_Hippocampus" / "dataset.json", source)
    data = module("hippocampus", tmp_path, f"paths.raw={tmp_path / 'raw'}", "data.num_workers=0")
    data.prepare_data()
    assert data.plan.channel_names == ("MRI",) and data.nsd_tolerance == 1.0
    assert (len(data.train_ids), len(data.val_ids)) == (8, 2)
    assert {case.identifier for case in data.test_cases} == set(data.val_ids)
    label = sitk.GetArrayFromImage(sitk.ReadImage(data.test_cases[0].label))
    assert set(np.unique(label)) == {0, 1, 2}


@pytest.mark.parametrize("target", DATA_MODULES)
def test_every_data_module_makes_its_raw_data_by_the_same_call(target: str) -> None:
    module = get_class(target)
    assert inspect.signature(module.make_raw) == inspect.signature(SegmentationDataModule.make_raw)
