"""From a plan and a network constructor to a network: the one place where the plan's topology enters."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from torch import nn

from umamba.models.blocks import ConvBlock, ResidualBlock
from umamba.models.unet import RESENC_BLOCKS, PlainConvUNet, ResidualEncoderUNet
from umamba.planning.configuration import Configuration
from umamba.planning.options import PRESETS, PlannerOptions
from umamba.planning.plan import Plan

log = logging.getLogger(__name__)

_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_NO_RESIDUAL = (
    "The plan ({}) is for nnU-Net's residual encoder, but {} is its plain CNN. Train model=resenc, or plan with "
    "data.planning.preset=default."
)


def build_network(
    network: Callable[..., nn.Module], plan: Plan, configuration: str, deep_supervision: bool
) -> nn.Module:
    """Construct a network for one configuration of a plan.

    Args:
        network: class or partial; receives the topology as keywords.
        plan: the data set's.
        configuration: name of one of ``plan.configurations``.
        deep_supervision: whether the network returns the logits of every decoder stage.

    Raises:
        ValueError: the plan has no such configuration, or the network no such argument.
    """
    topology = plan.configuration(configuration)
    try:
        return network(
            spatial_dims=topology.spatial_dims,
            in_channels=plan.num_inputs(configuration),
            out_channels=plan.num_classes,
            features_per_stage=topology.features_per_stage,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            patch_size=topology.patch_size,
            deep_supervision=deep_supervision,
            **_planned_blocks(network, topology),
        )
    except TypeError as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown is None or unknown[1] not in getattr(network, "keywords", {}):  # a fault inside the network
            raise
        kind = getattr(network, "func", network)
        raise ValueError(f"model.network.{unknown[1]}: {kind.__qualname__} has no such argument.") from error


def _planned_blocks(network: Callable[..., nn.Module], topology: Configuration) -> dict[str, tuple[int, ...]]:
    """The plan's block counts for nnU-Net's two networks, if it was made for that one and the user chose none."""
    kind, given = getattr(network, "func", network), getattr(network, "keywords", {})
    names = {PlainConvUNet: "blocks_per_stage", ResidualEncoderUNet: "encoder_blocks"}
    if kind not in names or topology.residual_encoder != (kind is ResidualEncoderUNet):
        return {}
    if names[kind] in given or "decoder_blocks" in given:
        return {}
    return {names[kind]: topology.n_conv_per_stage, "decoder_blocks": topology.n_conv_per_stage_decoder}


def check_followed(network: nn.Module, edited: Sequence[str]) -> None:
    """Refuse edits of a plan's topology that a network with one of its own does not follow (ValueError)."""
    if edited and not getattr(network, "follows_topology", True):
        name = type(getattr(network, "network", network)).__name__
        raise ValueError(
            f"{', '.join(edited)} of plan.json was edited, but {name} has a topology of its own and does not follow "
            "the plan in this. Take the edit back, or choose the size as an argument of model.network."
        )


def check_preset(network: Callable[..., nn.Module], options: PlannerOptions) -> None:
    """Refuse, before there is a plan, what `check_planned_blocks` would refuse of the plan of these options.

    Raises:
        ValueError: the preset is for nnU-Net's residual encoder and the network is its plain one.
    """
    of_resenc = options.plans is None and PRESETS[options.preset].residual
    if of_resenc and getattr(network, "func", network) is PlainConvUNet:
        raise ValueError(_NO_RESIDUAL.format(options.preset, PlainConvUNet.__name__))


def check_planned_blocks(network: nn.Module, plan: Plan, configuration: str) -> None:
    """Refuse to train a network with other block counts than its plan was edited to, or was made for.

    nnU-Net's own networks are built as the plan says, each of a plan that was made for it. U-Mamba and the baselines
    have counts of their own, which nnU-Net's two usual plans do not change; with a plan for
    the residual encoder that is said.

    Raises:
        ValueError: ``n_conv_per_stage`` or ``n_conv_per_stage_decoder`` is neither what the planner writes nor what
            the network has, or the plan is for nnU-Net's residual encoder and the network is its plain one.
    """
    topology = plan.configuration(configuration)
    planned = topology.n_conv_per_stage, topology.n_conv_per_stage_decoder
    built = (
        tuple(map(num_blocks, getattr(network, "encoder_stages", ()))),
        tuple(map(num_blocks, getattr(network, "decoder_stages", ()))),
    )
    if planned == built:
        return
    stages, name = len(topology.strides), type(network).__name__
    resenc = tuple(RESENC_BLOCKS[min(s, len(RESENC_BLOCKS) - 1)] for s in range(stages)), (1,) * (stages - 1)
    if planned not in (resenc, ((2,) * stages, (2,) * (stages - 1))):
        raise ValueError(
            f"The plan's configurations.{configuration} has n_conv_per_stage {planned[0]} and n_conv_per_stage_decoder "
            f"{planned[1]}, but {name} has the blocks {built[0]} and {built[1]} and does not follow the plan in this. "
            "Take the edit back, or choose the blocks as an argument of model.network."
        )
    if planned == resenc and isinstance(network, PlainConvUNet):
        raise ValueError(_NO_RESIDUAL.format(plan.preset, name))
    if planned == resenc or isinstance(network, ResidualEncoderUNet):
        log.warning(
            "%s has the blocks %s and %s; patch and batch were planned for %s and %s, so it needs another amount of "
            "memory.", name, *built, *planned,
        )  # fmt: skip


def num_blocks(stage: nn.Module) -> int:
    """Convolution or residual blocks of a stage of an encoder or a decoder."""
    return sum(isinstance(block, (ConvBlock, ResidualBlock)) for block in stage.children())
