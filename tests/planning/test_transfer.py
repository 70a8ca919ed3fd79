"""A plan of another data set: topology and spacing are taken over, labels, channels and intensities are one's own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from preparation import run
from raw_data import make_dataset

from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan

OWN = {"background": 0, "liver": 1, "spleen": 2}
OTHER = {"background": 0, "a": 1, "b": 2, "c": 3}


def renamed(raw: Path, **changes: object) -> Path:
    path = raw / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return raw


def given(path: Path) -> PlannerOptions:
    return PlannerOptions(plans=str(path))


@pytest.fixture
def source(tmp_path: Path) -> Plan:
    """A CT data set with one class, planned and hand-edited such that no other plan is like it."""
    raw = renamed(make_dataset(tmp_path / "source", channels=("CT",), labels=OWN), name="Source")
    plan, _ = run(raw, tmp_path / "prepared_source")
    entry = dataclasses.replace(plan.configuration("3d_fullres"), spacing=(1.25, 1.5, 1.75), batch_size=3)
    plan = dataclasses.replace(plan, configurations={"3d_fullres": entry})
    plan.save(tmp_path / "plan.json")
    return plan


def test_a_plan_of_ours_is_moved_with_own_labels_and_intensities(source: Plan, tmp_path: Path) -> None:
    raw = renamed(make_dataset(tmp_path / "target", shape=(22, 26, 24), channels=("CT",), labels=OTHER), name="Target")
    own, _ = run(raw, tmp_path / "own")
    moved, store = run(raw, tmp_path / "moved", given(tmp_path / "plan.json"))
    assert moved.configurations == source.configurations and moved.transpose_forward == source.transpose_forward
    for key in ("dataset_name", "labels", "channel_names", "num_training", "intensities", "file_ending"):
        assert getattr(moved, key) == getattr(own, key), key
    assert moved.labels == OTHER and moved.intensities != source.intensities
    assert len(store.identifiers) == moved.num_training
    again, _ = run(raw, tmp_path / "moved", given(tmp_path / "plan.json"))
    assert again == moved


def test_other_channels_are_normalised_by_their_own_names(source: Plan, tmp_path: Path) -> None:
    raw = renamed(make_dataset(tmp_path / "target", channels=("CT", "MR"), labels=OTHER), name="Target")
    moved, _ = run(raw, tmp_path / "moved", given(tmp_path / "plan.json"))
    entry = moved.configuration("3d_fullres")
    assert entry.normalization == ("CTNormalization", "ZScoreNormalization") and len(moved.intensities) == 2
    assert entry.spacing == (1.25, 1.5, 1.75) and entry.batch_size == 3
    one = renamed(make_dataset(tmp_path / "mr", channels=("MR",), labels=OTHER), name="Other")
    kept, _ = run(one, tmp_path / "kept", given(tmp_path / "plan.json"))
    assert kept.configuration("3d_fullres").normalization == ("CTNormalization",)  # as the source's network knows it


def test_channels_in_another_order_keep_their_own_normalisation(tmp_path: Path) -> None:
    there = renamed(make_dataset(tmp_path / "source", channels=("CT", "noNorm"), labels=OWN), name="Source")
    source, _ = run(there, tmp_path / "prepared_source")
    source.save(tmp_path / "plan.json")
    turned = renamed(make_dataset(tmp_path / "target", channels=("noNorm", "CT"), labels=OWN), name="Target")
    moved, _ = run(turned, tmp_path / "moved", given(tmp_path / "plan.json"))
    assert moved.configuration("3d_fullres").normalization == ("NoNormalization", "CTNormalization")
    partly = renamed(make_dataset(tmp_path / "other", channels=("MR", "CT"), labels=OWN), name="Other")
    moved, _ = run(partly, tmp_path / "partly", given(tmp_path / "plan.json"))
    assert moved.configuration("3d_fullres").normalization == ("ZScoreNormalization", "CTNormalization")


def test_a_plan_of_the_same_data_set_is_taken_as_it_is(source: Plan, tmp_path: Path) -> None:
    statistics = dataclasses.replace(source.intensities[0], mean=source.intensities[0].mean + 1)
    edited = dataclasses.replace(source, intensities=(statistics,))
    edited.save(tmp_path / "edited.json")
    same, _ = run(tmp_path / "source", tmp_path / "again", given(tmp_path / "edited.json"))
    assert same == edited


def nnunet_plans(plan: Plan, name: str) -> dict:
    """As nnU-Net writes a plan, of nnunetv2 2.8's form."""
    entry = plan.configuration("3d_fullres")
    stages = len(entry.strides)
    statistics = {str(index): dataclasses.asdict(one) for index, one in enumerate(plan.intensities)}
    return {
        "dataset_name": name, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "original_median_spacing_after_transp": [1, 1, 1], "original_median_shape_after_transp": [20, 20, 20],
        "foreground_intensity_properties_per_channel": statistics,
        "configurations": {"3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
            "patch_size": list(entry.patch_size), "spacing": [1.25, 1.5, 1.75],
            "median_image_size_in_voxels": list(entry.median_shape), "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False], "batch_dice": False,
            "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                             "arch_kwargs": {
                                 "n_stages": stages, "features_per_stage": list(entry.features_per_stage),
                                 "kernel_sizes": [list(k) for k in entry.kernel_sizes],
                                 "strides": [list(s) for s in entry.strides],
                                 "n_conv_per_stage": list(entry.n_conv_per_stage),
                                 "n_conv_per_stage_decoder": list(entry.n_conv_per_stage_decoder)}},
        }},
    }  # fmt: skip


def test_a_plan_of_nnunet_is_moved_too_also_to_other_channels(source: Plan, tmp_path: Path) -> None:
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(nnunet_plans(source, "Dataset001_Source")))
    for channels, schemes in (
        (("CT",), ("CTNormalization",)),
        (("MR", "CT"), ("ZScoreNormalization", "CTNormalization")),
    ):
        raw = renamed(make_dataset(tmp_path / f"target{len(channels)}", channels=channels, labels=OTHER), name="T")
        moved, _ = run(raw, tmp_path / f"moved{len(channels)}", given(tmp_path / "nnUNetPlans.json"))
        own, _ = run(raw, tmp_path / f"own{len(channels)}")
        entry = moved.configuration("3d_fullres")
        assert entry.normalization == schemes and entry.spacing == (1.25, 1.5, 1.75)
        assert moved.intensities == own.intensities and moved.dataset_name == "T"


def test_nnunets_name_of_the_same_folder_is_the_same_data_set(source: Plan, tmp_path: Path) -> None:
    raw = renamed(make_dataset(tmp_path / "Dataset001_Source", channels=("CT",), labels=OWN), name="Liver")
    content = nnunet_plans(source, "Dataset001_Source")
    content["foreground_intensity_properties_per_channel"]["0"]["mean"] += 1
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(content))
    plan, _ = run(raw, tmp_path / "same", given(tmp_path / "nnUNetPlans.json"))
    assert plan.intensities[0].mean == content["foreground_intensity_properties_per_channel"]["0"]["mean"]
