"""From a plan and a network constructor to a network: the one place where the plan's topology enters."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from src.planning.plan import Plan


def build_network(
    network: Callable[..., nn.Module],
    plan: Plan,
    configuration: str,
    deep_supervision: bool,
) -> nn.Module:
    """Construct a network for one configuration of a plan.

    Args:
        network: class or partial; receives the topology as keywords.
        configuration: name of one of ``plan.configurations``.
        deep_supervision: whether the network returns the logits of every decoder stage.

    Raises:
        ValueError: the plan has no such configuration.
    """
    topology = plan.configuration(configuration)
    return network(
        spatial_dims=topology.spatial_dims,
        in_channels=len(plan.channel_names),
        out_channels=plan.num_classes,
        features_per_stage=topology.features_per_stage,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        patch_size=topology.patch_size,
        deep_supervision=deep_supervision,
    )
