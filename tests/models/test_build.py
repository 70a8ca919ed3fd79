"""A plan's block counts are followed, or the run does not begin."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable

import pytest
import torch

from umamba.models.baselines import segresnet
from umamba.models.build import build_network, check_followed, check_planned_blocks
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription

STATISTICS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


def plan_of(preset: str = "default", **changes) -> Plan:
    description = DatasetDescription(
        name="Toy", channel_names=("MR",), labels={"background": 0, "liver": 1}, file_ending=".nii.gz", num_training=4
    )
    fingerprint = Fingerprint(
        spacings=((1.0, 1.0, 1.0),) * 4,
        shapes_after_crop=((32, 32, 32),) * 4,
        intensities=(Intensities(**dict.fromkeys(STATISTICS, 1.0)),),
        median_relative_size=1.0,
    )
    plan = plan_dataset(fingerprint, description, PlannerOptions(base_features=4, preset=preset))
    entry = dataclasses.replace(plan.configuration("3d_fullres"), **changes)
    return dataclasses.replace(plan, configurations={"3d_fullres": entry})


def check(network, plan: Plan) -> None:
    with torch.device("meta"):
        built = build_network(network, plan, "3d_fullres", network is not segresnet)
    check_planned_blocks(built, plan, "3d_fullres")


def repo(**arguments) -> UMamba:
    return UMamba(**arguments, variant="repo", mamba="bottleneck")


@pytest.mark.parametrize("network", [PlainConvUNet, UMamba, repo, segresnet])
def test_the_planners_own_counts_are_fine(network, caplog) -> None:
    check(network, plan_of())
    assert not caplog.text


def test_the_residual_encoder_with_its_plan_is_fine(caplog) -> None:
    check(ResidualEncoderUNet, plan_of("resenc_m"))
    assert not caplog.text


@pytest.mark.parametrize("network", [ResidualEncoderUNet, UMamba, repo, segresnet])
def test_an_edit_that_would_do_nothing_is_refused(network) -> None:
    for key, longer in (("n_conv_per_stage", 0), ("n_conv_per_stage_decoder", 1)):
        plan = plan_of()
        counts = (3,) * (len(plan.configuration("3d_fullres").strides) - longer)
        with pytest.raises(ValueError, match="3d_fullres has n_conv_per_stage .*Take the edit back"):
            check(network, plan_of(**{key: counts}))


@pytest.mark.parametrize(("network", "preset"), [(PlainConvUNet, "default"), (ResidualEncoderUNet, "resenc_m")])
def test_nnunets_networks_have_the_plans_counts(network, preset) -> None:
    stages = len(plan_of().configuration("3d_fullres").strides)
    encoder, decoder = tuple(range(1, stages + 1)), tuple(range(stages, 1, -1))
    plan = plan_of(preset, n_conv_per_stage=encoder, n_conv_per_stage_decoder=decoder)
    with torch.device("meta"):
        built = build_network(network, plan, "3d_fullres", True)
        usual = build_network(network, plan_of(preset), "3d_fullres", True)
    check_planned_blocks(built, plan, "3d_fullres")
    blocks = [len([*stage.children()]) for stage in (*built.encoder_stages, *built.decoder_stages)]
    assert blocks == [*encoder, *decoder]
    assert sum(p.numel() for p in built.parameters()) != sum(p.numel() for p in usual.parameters())
    sizes = {"features_per_stage": (4, 8), "kernel_sizes": (3, 3), "strides": (1, 2)}
    with pytest.raises(ValueError, match="expected a number > 0, or 1 of them"):
        network(spatial_dims=2, in_channels=1, out_channels=2, decoder_blocks=(1, 1), **sizes)


def test_an_edit_of_the_topology_is_not_for_a_network_with_its_own() -> None:
    with torch.device("meta"):
        own, follows = (build_network(kind, plan_of(), "3d_fullres", kind is UMamba) for kind in (segresnet, UMamba))
    check_followed(own, [])
    check_followed(follows, ["strides"])
    with pytest.raises(ValueError, match="kernel_sizes, strides of plan.json was edited, but SegResNet has a topology"):
        check_followed(own, ["kernel_sizes", "strides"])


def test_an_edit_that_the_network_follows_is_fine() -> None:
    stages = len(plan_of().configuration("3d_fullres").strides)
    plan = plan_of(n_conv_per_stage=(3,) * stages, n_conv_per_stage_decoder=(3,) * (stages - 1))
    check(lambda **arguments: PlainConvUNet(**arguments, blocks_per_stage=3), plan)


def test_a_plan_for_the_residual_encoder_is_not_for_the_plain_one() -> None:
    with pytest.raises(
        ValueError, match="resenc_l.*residual encoder, but PlainConvUNet is its plain CNN.*model=resenc"
    ):
        check(PlainConvUNet, plan_of("resenc_l"))


@pytest.mark.parametrize(("network", "preset"), [(ResidualEncoderUNet, "default"), (UMamba, "resenc_m")])
def test_a_plan_for_another_network_is_said(network, preset, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        check(network, plan_of(preset))
    assert "patch and batch were planned for" in caplog.text


@pytest.mark.parametrize("network", [UMamba, segresnet])
def test_an_argument_that_a_network_does_not_have_is_named(network: Callable) -> None:
    with pytest.raises(ValueError, match=r"model\.network\.wrong: (UMamba|segresnet) has no such argument"):
        build_network(functools.partial(network, wrong=1), plan_of(), "3d_fullres", False)
