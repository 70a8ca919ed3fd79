"""Plans as files: round trips, inheritance, precise refusals, and nnU-Net's own plans of both schemas."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest

from umamba.planning.configuration import PlanError
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.nnunet_plans import load_plan
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription, DatasetError

STATISTICS = {
    "mean": 80.0, "median": 70.0, "std": 20.0, "min": -9.0, "max": 300.0, "percentile_00_5": 1.5,
    "percentile_99_5": 250.0,
}  # fmt: skip
DESCRIPTION = DatasetDescription(
    name="Toy",
    channel_names=("CT",),
    labels={"background": 0, "liver": 1},
    ignore_label=2,
    file_ending=".nii.gz",
    num_training=40,
)
FINGERPRINT = Fingerprint(
    spacings=((1.0, 0.8, 0.8), (1.5, 0.9, 0.8)),
    shapes_after_crop=((400, 512, 512), (301, 500, 512)),
    intensities=(Intensities(**STATISTICS),),
    median_relative_size=0.9,
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_dataset(FINGERPRINT, DESCRIPTION, PlannerOptions())


@pytest.fixture
def content(plan) -> dict:
    return copy.deepcopy(plan.to_dict())


def test_a_plan_survives_its_file(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan and again.hash() == plan.hash()
    assert not list(tmp_path.glob(".writing*"))
    assert dataclasses.replace(plan, dataset_name="Other").hash() != plan.hash()


def test_plain_data_are_plain(plan):
    def plain(value) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (str, int, float, bool, type(None))

    assert plain(plan.to_dict())


def test_a_configuration_inherits(content):
    content["configurations"]["small_batch"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    content["configurations"]["smaller_yet"] = {"inherits_from": "small_batch", "patch_size": [64, 64, 64]}
    plan = Plan.from_dict(content)
    last = plan.configuration("smaller_yet")
    assert (last.name, last.batch_size, last.patch_size) == ("smaller_yet", 3, (64, 64, 64))
    assert last.data_identifier == "3d_fullres" and last.strides == plan.configuration("3d_fullres").strides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [100, 128, 128]}, r"patch_size = \(100, 128, 128\): expected multiples of the total strides"),
        ({"patch_size": [128]}, "patch_size = .*expected 2 or 3 whole numbers"),
        ({"patch_size": [128, 128, 64.5]}, "patch_size = .*expected a list of a whole number"),
        ({"patch_size": 128}, "patch_size = 128: expected a list of a whole number"),
        ({"patch_size": [2**12] * 3}, "patch_size = .*expected at most 268435456 voxels"),
        ({"batch_size": True}, "batch_size = True: expected a whole number"),
        ({"batch_size": 10**6}, "batch_size = 1000000: expected at most 4294967296 voxels"),
        ({"features_per_stage": [10**9] * 6}, "features_per_stage = .*expected at most 8192"),
        ({"normalization": "CTNormalization"}, "normalization = .*expected a list of text"),
        ({"previous_stage": ["2d"]}, "previous_stage = .*expected text or null"),
        ({"batch_dice": "yes"}, "batch_dice = 'yes': expected true or false"),
        ({"data_identifier": "../home"}, "data_identifier = ../home: expected the name of a folder; it holds a path"),
        ({"data_identifier": ""}, "data_identifier = : expected the name of a folder; it is empty"),
        ({"data_identifier": "."}, "data_identifier = .: .*begins with a dot"),
        ({"data_identifier": "/etc"}, "data_identifier = /etc: .*path separator"),
        ({"inherits_from": ["2d"]}, "inherits_from is .*expected a name"),
        ({"batch_size": 0}, "batch_size = 0: expected a whole number > 0"),
        ({"spacing": [1.0, 1.0]}, "spacing = .*expected 3 numbers > 0"),
        ({"spacing": [1.0, 0.8, -1.0], "data_identifier": "x"}, "spacing = .*expected 3 numbers > 0"),
        ({"strides": []}, "strides = .*at least one stage"),
        ({"kernel_sizes": [[3, 3, 3]]}, "kernel_sizes = .*expected . stages"),
        ({"features_per_stage": [32, 64]}, r"features_per_stage = \(32, 64\): expected . whole numbers"),
        ({"normalization": ["Magic"], "data_identifier": "x"}, "normalization = .*unknown .'Magic'.; allowed are"),
        ({"use_mask_for_norm": [], "data_identifier": "x"}, "use_mask_for_norm = .*one entry per channel"),
        ({"spacing": [2.0, 2.0, 2.0]}, "share data_identifier '3d_fullres' but differ in spacing.*Give"),
        ({"previous_stage": "none"}, "previous_stage = 'none' is no configuration"),
        ({"colour": 1}, r"has unknown keys \['colour'\]; allowed are"),
        ({"inherits_from": "nothing"}, "inherits_from is 'nothing'; there are 2d, 3d_fullres"),
    ],
)
def test_a_wrong_edit_is_named(content, changes, message):
    content["configurations"]["mine"] = {"inherits_from": "3d_fullres"} | changes
    with pytest.raises(PlanError, match=f"mine.*{message}"):
        Plan.from_dict(content)


def test_even_kernels_and_missing_keys_are_named(content):
    broken = copy.deepcopy(content)
    broken["configurations"]["2d"]["kernel_sizes"][0] = [2, 3]
    with pytest.raises(PlanError, match="configurations.2d.kernel_sizes = .*expected odd sizes"):
        Plan.from_dict(broken)
    del content["configurations"]["2d"]["strides"]
    with pytest.raises(PlanError, match=r"configurations.2d lacks \['strides'\]"):
        Plan.from_dict(content)


def test_inheritance_in_a_circle_is_named(content):
    content["configurations"] |= {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}
    with pytest.raises(PlanError, match="configurations.a inherits from itself: a -> b -> a"):
        Plan.from_dict(content)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("transpose_forward", [0, 1, 1], "expected an order of the axes"),
        ("transpose_backward", [2, 1, 0], "does not undo"),
        ("intensities", [], "intensities has 0 entries for 1 channels"),
        ("configurations", {}, "needs configurations"),
        ("surprise", 1, "plan has unknown keys"),
        ("file_ending", "/../../x.nii.gz", "file_ending = .*expected one of .nii.gz"),
        ("labels", {"background": 0, "liver": 7}, "labels = .*without a gap"),
        ("labels", {"background": "0"}, "labels = .*expected an object of a whole number"),
        ("labels", [0, 1], "labels = .*expected an object"),
        ("channel_names", [7], "channel_names = .*expected a list of text"),
        ("intensities", 3, "intensities = 3: expected a list"),
        ("intensities", [STATISTICS | {"mean": math.nan}], r"intensities\[0\].mean = nan: expected a number"),
        ("num_training", "many", "num_training = 'many': expected a whole number"),
    ],
)
def test_a_wrong_plan_is_named_with_its_file(content, tmp_path, key, value, message):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content | {key: value}))
    with pytest.raises(PlanError, match=f"plan.json: .*{message}"):
        Plan.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": -50.0}, "std is -50.0; expected a number >= 0"),
        ({"std": 0.0}, "CTNormalization would make every image one value"),
        ({"std": 1e-30}, "CTNormalization would make every image one value"),
        ({"percentile_00_5": 250.0}, "CTNormalization would make every image one value"),
        ({"percentile_00_5": 251.0}, "percentile_00_5 is 251.0, above percentile_99_5, which is 250.0"),
        ({"min": 301.0}, "min is 301.0, above max, which is 300.0"),
    ],
)
def test_intensities_that_contradict_themselves(content, changes, message):
    content["intensities"][0] |= changes
    with pytest.raises(PlanError, match=rf"intensities\[0\]: .*{message}"):
        Plan.from_dict(content)


def test_a_channel_of_one_value_is_fine_where_nothing_is_divided_by_it(content):
    content["intensities"][0] |= {"std": 0.0, "percentile_00_5": 250.0}
    for entry in content["configurations"].values():
        if "normalization" in entry:
            entry["normalization"] = ["ZScoreNormalization"]
    assert Plan.from_dict(content).intensities[0].std == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "9"}, "rule = '9': expected one of 2.1, 2.8"),
        ({"labels": {"background": 1, "liver": 0}}, "expected background to be 0"),
    ],
)
def test_a_rule_and_labels_that_there_are_not(content, changes, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_dict(content | changes)


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "???", "../2d", ""])
def test_a_configuration_has_a_plain_name(content, name):
    content["configurations"][name] = {"inherits_from": "2d"}
    with pytest.raises(PlanError, match="name = .*: expected a plain name"):
        Plan.from_dict(content)


def test_a_list_that_contains_itself(content):
    strides = content["configurations"]["2d"]["strides"]
    strides.append(strides)
    with pytest.raises(PlanError, match="contains itself"):
        Plan.from_dict(content)


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(FileNotFoundError, match="no plan at .*plan.json. Make one with: python -m umamba.planning"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="plan.json is not valid JSON"):
        Plan.load(tmp_path / "plan.json")


def test_an_unknown_configuration_lists_the_known(plan):
    with pytest.raises(ValueError, match="no configuration '3d'; it has 2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres"):
        plan.configuration("3d")


def nnunet_entry(newer: bool) -> dict:
    resampling = {"order": 3, "order_z": 0, "force_separate_z": None}
    entry = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [64, 128, 128],
        "median_image_size_in_voxels": [120.5, 300.0, 300.0],
        "spacing": [3.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False} | resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True} | resampling | {"order": 1},
        "batch_dice": True,
    }
    strides, kernels = [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    if newer:
        arguments = {
            "n_stages": 3,
            "features_per_stage": [32, 64, 128],
            "kernel_sizes": kernels,
            "strides": strides,
            "n_blocks_per_stage": [1, 3, 4],
            "n_conv_per_stage_decoder": [1, 1],
        }
        return entry | {"architecture": {"network_class_name": "ResidualEncoderUNet", "arch_kwargs": arguments}}
    return entry | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 100,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": strides,
        "conv_kernel_sizes": kernels,
    }


def nnunet_plans(newer: bool) -> dict:
    return {
        "dataset_name": "Dataset900_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.0, 1.5],
        "original_median_shape_after_transp": [100, 200, 300],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [2, 0, 1],
        "transpose_backward": [1, 2, 0],
        "configurations": {
            "3d_fullres": nnunet_entry(newer),
            "mine": {"inherits_from": "3d_fullres", "batch_size": 5},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": STATISTICS},
    }


@pytest.mark.parametrize("newer", [False, True])
def test_nnunet_plans_of_both_schemas(tmp_path, newer):
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(nnunet_plans(newer)))
    plan = load_plan(path, DESCRIPTION)
    entry = plan.configuration("3d_fullres")
    assert entry.patch_size == (64, 128, 128) and entry.spacing == (3.0, 1.0, 1.0) and entry.batch_dice
    assert entry.total_stride == (2, 4, 4) and entry.kernel_sizes[0] == (1, 3, 3)
    assert entry.features_per_stage == ((32, 64, 128) if newer else (32, 64, 100))
    assert entry.n_conv_per_stage == ((1, 3, 4) if newer else (2, 2, 2)) and entry.residual_encoder is newer
    assert plan.rule == ("2.8" if newer else "2.1") and plan.labels == DESCRIPTION.labels and plan.num_classes == 2
    assert plan.original_median_spacing == (1.0, 1.5, 3.0)
    assert plan.configuration("mine").batch_size == 5
    assert plan.intensities[0] == Intensities(**STATISTICS)
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json", DESCRIPTION) == plan


def test_nnunet_plans_of_its_first_releases_name_the_intensities_otherwise(tmp_path):
    content = nnunet_plans(False)
    content["foreground_intensity_properties_by_modality"] = content.pop("foreground_intensity_properties_per_channel")
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(content))
    assert load_plan(tmp_path / "nnUNetPlans.json", DESCRIPTION).intensities[0] == Intensities(**STATISTICS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessor_name": "Mine"}, "preprocessor_name is 'Mine'; only DefaultPreprocessor is supported"),
        ({"resampling_fn_data": "resample_torch"}, "resampling_fn_data is 'resample_torch'.*only nnU-Net's default"),
        ({"resampling_fn_seg_kwargs": {"order": 0}}, "resampling_fn_seg is .*'order': 0.*only nnU-Net's default"),
        ({"patch_size": [65, 128, 128]}, "patch_size = .*expected multiples"),
    ],
)
def test_nnunet_plans_that_cannot_be_followed(tmp_path, changes, message):
    content = nnunet_plans(True)
    content["configurations"]["3d_fullres"] |= changes
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=f"p.json: configurations.3d_fullres.{message}"):
        load_plan(tmp_path / "p.json", DESCRIPTION)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_identifier": "../home"}, "configurations.3d_fullres.data_identifier = ../home: expected the name"),
        ({"data_identifier": ""}, "configurations.3d_fullres.data_identifier = : expected the name"),
        ({"magic": 1}, r"3d_fullres has the keys \['magic'\], which are not known here"),
        ({"architecture": {"network_class_name": "dynamic.ResidualUNet"}}, "3d_fullres was planned for ResidualUNet"),
        ({"arch": {"norm_op": "torch.nn.BatchNorm3d"}}, "arch_kwargs.norm_op is 'torch.nn.BatchNorm3d'; only 'torch"),
        ({"arch": {"stem_channels": 64}}, "arch_kwargs.stem_channels is 64; it is not known here"),
        ({"label_manager": "Mine"}, "label_manager is 'Mine'; only LabelManager"),
        ({"image_reader_writer": "NibabelIOWithReorient"}, "image_reader_writer is .*only SimpleITKIO"),
        ({"foreground_oversampling": 0.5}, r"It has the keys \['foreground_oversampling'\]"),
        ({"arch": {"n_stages": 4}}, "arch_kwargs.n_stages is 4; there are strides of 3"),
        (
            {"arch": {"conv_op": "torch.nn.modules.conv.Conv2d"}},
            "arch_kwargs.conv_op is .*, but the patch has 3",
        ),
        ({"UNet_base_num_features": 8}, r"3d_fullres has \['UNet_base_num_features'\] beside architecture"),
    ],
)
def test_nnunet_plans_with_what_would_do_nothing(tmp_path, changes, message):
    content = nnunet_plans(True)
    entry = content["configurations"]["3d_fullres"]
    entry["architecture"]["arch_kwargs"] |= changes.pop("arch", {})
    for key, value in changes.items():
        top = ("label_manager", "image_reader_writer", "foreground_oversampling")
        (content if key in top else entry)[key] = value
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=f"p.json: .*{message}"):
        load_plan(tmp_path / "p.json", DESCRIPTION)


def test_an_older_plan_that_counts_its_poolings_otherwise(tmp_path):
    content = nnunet_plans(False)
    content["configurations"]["3d_fullres"]["num_pool_per_axis"] = [9, 9, 9]
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=r"3d_fullres.num_pool_per_axis is \[9, 9, 9\]; pool_op_kernel_sizes halve"):
        load_plan(tmp_path / "p.json", DESCRIPTION)


def test_nnunet_plans_that_are_damaged(tmp_path):
    content = nnunet_plans(True)
    del content["transpose_forward"]
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="p.json is no nnUNetPlans.json that can be read: KeyError 'transpose_forward'"):
        load_plan(tmp_path / "p.json", DESCRIPTION)
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(PlanError, match="p.json is not valid JSON"):
        load_plan(tmp_path / "p.json", DESCRIPTION)
    with pytest.raises(FileNotFoundError, match="no plan at .*q.json"):
        load_plan(tmp_path / "q.json", DESCRIPTION)


def test_fingerprint_files(tmp_path):
    path = tmp_path / "dataset_fingerprint.json"
    content = FINGERPRINT.to_dict()
    path.write_text(json.dumps(content))
    assert Fingerprint.load(path) == FINGERPRINT
    for change, message in (
        ({"spacings": content["spacings"][:1]}, "one spacing and one shape for each case"),
        ({"spacings": [[1.0, 0.0, 1.0]] * 2}, "three numbers > 0"),
        ({"spacings": [[1.0, math.nan, 1.0]] * 2}, "three numbers > 0"),
        ({"median_relative_size_after_cropping": None}, "no fingerprint of nnU-Net's form: TypeError"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(DatasetError, match=f"dataset_fingerprint.json: .*{message}"):
            Fingerprint.load(path)
    with pytest.raises(FileNotFoundError, match="no fingerprint at"):
        Fingerprint.load(tmp_path / "none.json")
