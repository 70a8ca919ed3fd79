"""Every key of plan.json: an edit changes what is built, or is refused by the key's name. None does nothing."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from raw_data import make_dataset

from umamba.datamodules.base import SegmentationDataModule
from umamba.models.build import build_network, check_followed, check_planned_blocks
from umamba.models.losses import DeepSupervision
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.unet import PlainConvUNet
from umamba.planning.options import PlannerOptions

NAME = "3d_fullres"
OPTIONS = PlannerOptions(base_features=4)
OTHER = "Toy of another kind"

# Key -> edits of the file's content that belong together; None where it is refused by name.
ACTS: dict[str, dict[str, Any]] = {
    "transpose_forward": {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]},
    "transpose_backward": {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]},
    "intensities[0].mean": {"intensities[0].mean": 1.0},
    "intensities[0].std": {"intensities[0].std": 3.0},
    "intensities[0].percentile_00_5": {"intensities[0].percentile_00_5": 100.0},
    "intensities[0].percentile_99_5": {"intensities[0].percentile_99_5": 150.0},
}
OF_CONFIGURATION: dict[str, Any] = {
    "patch_size": [8, 16, 16],
    "batch_size": 3,
    "spacing": [1.5, 1.0, 1.0],
    "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "features_per_stage": [4, 8, 12],
    "n_conv_per_stage": [1, 2, 3],
    "n_conv_per_stage_decoder": [1, 3],
    "normalization": ["CTNormalization", "NoNormalization"],
    "use_mask_for_norm": [False, True],
    "batch_dice": True,
    "data_identifier": "elsewhere",
}
REFUSED: dict[str, Any] = {
    "dataset_name": OTHER, "rule": "2.8", "preset": "resenc_m", "memory_gb": 9.0, "base_features": 5,
    "channel_names": ["CT", "T2"], "labels": {"background": 0, "liver": 2, "spleen": 1},
    "regions": [{"name": "all", "labels": [1], "written": 1}], "ignore_label": 3, "file_ending": ".nrrd",
    "num_training": 6, "original_median_spacing": [9.0, 1.0, 1.0], "original_median_shape": [9.0, 9.0, 9.0],
    "intensities[0].min": -50.0, "intensities[0].max": 5000.0, "intensities[0].median": 1.0,
    **{f"intensities[1].{key}": value for key, value in {
        "mean": 1.0, "median": 1.0, "std": 2.0, "min": -50.0, "max": 5000.0, "percentile_00_5": 100.0,
        "percentile_99_5": 500.0}.items()},
}  # fmt: skip
REFUSED_OF_CONFIGURATION: dict[str, Any] = {
    "name": "other", "median_shape": [9.0, 9.0, 9.0], "residual_encoder": True, "estimate": 1, "reference": 1,
    "patch_reason": "because", "batch_reason": "because", "previous_stage": "2d",
}  # fmt: skip


def edited(content: dict, edits: dict[str, Any]) -> dict:
    content = copy.deepcopy(content)
    for key, value in edits.items():
        place: Any = content
        *parents, last = key.replace("[", ".").replace("]", "").split(".")
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        assert place[last] != value, f"{key} has that value already"
        place[last] = value
    return content


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and what was planned of it."""
    folder = tmp_path_factory.mktemp("keys")
    raw = make_dataset(folder / "raw", cases=5, channels=("CT", "MR"))
    for path in (raw / "imagesTr").iterdir():
        image = sitk.ReadImage(str(path))
        image[:6, :8, :8] = 0  # a corner outside of the body, which the non-zero box keeps
        sitk.WriteImage(image, str(path))
    open_data(raw, folder / "out").make_plan()
    return folder


def open_data(raw: Path, out: Path) -> SegmentationDataModule:
    return SegmentationDataModule(
        dataset_dir=raw, prepared_dir=out, configuration=NAME, planning=OPTIONS, patch_size=None,
        iterations_per_epoch=1, val_iterations=1,
    )  # fmt: skip


def built(raw: Path, out: Path) -> dict[str, Any]:
    """What a training would make of a prepared folder: network, loss, and the first batch."""
    data = open_data(raw, out)
    data.prepare_data()
    with torch.device("meta"):
        network = build_network(PlainConvUNet, data.plan, NAME, True)
    check_planned_blocks(network, data.plan, NAME)
    check_followed(network, data.topology_edits)
    module = SegmentationModule(
        plan=data.plan, configuration=NAME, network=PlainConvUNet,
        optimizer=functools.partial(torch.optim.SGD, lr=0.1), scheduler=torch.optim.lr_scheduler.StepLR,
    )  # fmt: skip
    assert isinstance(module.loss, DeepSupervision)
    image = next(iter(data.train_dataloader()))["image"]
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    strides = [conv.stride for conv in network.modules() if isinstance(conv, torch.nn.Conv3d)]
    return {
        "network": shapes, "strides": strides, "loss": module.loss.loss.batch_dice, "image": tuple(image.shape),
        "values": float(image.double().abs().sum()), "store": data.store.folder.name.rpartition("-")[0],
    }  # fmt: skip


def try_edit(prepared: Path, tmp_path: Path, edits: dict[str, Any]) -> dict[str, Any]:
    out = tmp_path / "out"
    shutil.copytree(prepared / "out", out)
    content = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps(edited(content, edits)))
    return built(prepared / "raw", out)


@pytest.fixture(scope="module")
def as_planned(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return try_edit(prepared, tmp_path_factory.mktemp("planned"), {})


def test_these_are_all_keys(prepared: Path) -> None:
    content = json.loads((prepared / "out" / "plan.json").read_text())
    keys = {key for key in content if key not in ("configurations", "intensities")}
    keys |= {f"intensities[{i}].{key}" for i, entry in enumerate(content["intensities"]) for key in entry}
    assert keys == {*ACTS, *REFUSED} and not ACTS.keys() & REFUSED.keys()
    for entry in content["configurations"].values():
        assert {*entry} == {*OF_CONFIGURATION, *REFUSED_OF_CONFIGURATION}


@pytest.mark.parametrize("key", ACTS)
def test_a_key_of_the_data_set_acts(prepared: Path, as_planned: dict, key: str, tmp_path: Path) -> None:
    assert try_edit(prepared, tmp_path, ACTS[key]) != as_planned


@pytest.mark.parametrize("key", OF_CONFIGURATION)
def test_a_key_of_a_configuration_acts(prepared: Path, as_planned: dict, key: str, tmp_path: Path) -> None:
    edits = {key: OF_CONFIGURATION[key]}
    edits |= {"data_identifier": "own"} if key in ("spacing", "normalization", "use_mask_for_norm") else {}
    found = try_edit(prepared, tmp_path, {f"configurations.{NAME}.{k}": v for k, v in edits.items()})
    assert {**found, "store": ""} != {**as_planned, "store": ""} or key == "data_identifier"
    assert found["store"] == edits.get("data_identifier", as_planned["store"])


@pytest.mark.parametrize("key", REFUSED)
def test_an_idle_edit_is_refused_by_name(prepared: Path, key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(key)):
        try_edit(prepared, tmp_path, {key: REFUSED[key]})


@pytest.mark.parametrize("key", REFUSED_OF_CONFIGURATION)
def test_an_idle_edit_of_a_configuration_is_refused_by_name(prepared: Path, key: str, tmp_path: Path) -> None:
    told = "2d is of slices" if key == "previous_stage" else rf"configurations\.{NAME}\.{key} is"
    with pytest.raises(ValueError, match=told):
        try_edit(prepared, tmp_path, {f"configurations.{NAME}.{key}": REFUSED_OF_CONFIGURATION[key]})


def test_a_configuration_of_ones_own_inherits_the_records_and_tells_none(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared / "out", out)
    content = json.loads((out / "plan.json").read_text())
    content["configurations"]["wide"] = {"inherits_from": NAME, "batch_size": 4}
    (out / "plan.json").write_text(json.dumps(content))
    open_data(prepared / "raw", out).make_plan()
    content["configurations"]["wide"]["patch_reason"] = "mine"
    (out / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"configurations\.wide\.patch_reason is 'mine'"):
        open_data(prepared / "raw", out).make_plan()


def test_a_plan_without_a_record_of_its_making_is_kept_as_it_is(prepared: Path, tmp_path: Path) -> None:
    """Made by an earlier version, or kept for changed data by deleting state.json: edits from now on are told."""
    for state in ("earlier", None):
        out = tmp_path / str(state)
        shutil.copytree(prepared / "out", out)
        path, plan = out / "state.json", json.loads((out / "plan.json").read_text())
        (out / "plan.json").write_text(json.dumps(edited(plan, {"num_training": 9})))
        if state is None:
            path.unlink()
        else:
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "planned"}))
        open_data(prepared / "raw", out).make_plan()
        open_data(prepared / "raw", out).make_plan()
        (out / "plan.json").write_text(json.dumps(edited(plan, {"num_training": 10})))
        with pytest.raises(ValueError, match="num_training is 10, planned was 9. It follows from the data"):
            open_data(prepared / "raw", out).make_plan()
