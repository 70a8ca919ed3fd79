"""The patch and batch size that a run asks for, put into its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from umamba.planning.plan import Plan


def with_sizes(
    plan: Plan, name: str, *, patch_size: Sequence[int] | None, multiple: int, batch_size: int | None
) -> Plan:
    """The plan with other sizes in one of its configurations.

    Args:
        plan: As it was made.
        name: Which configuration gets them.
        patch_size: In voxels, an axis for each of the configuration's; None leaves the plan's.
        multiple: Each axis of the patch is rounded up to a multiple of this.
        batch_size: Patches per step; None leaves the plan's.

    Raises:
        ValueError: The patch has another number of axes, or `umamba.planning.configuration.PlanError`.
    """
    configuration = plan.configuration(name)
    wanted = configuration.patch_size if patch_size is None else patch_size
    if len(wanted) != configuration.spatial_dims:
        raise ValueError(
            f"data.patch_size={[*wanted]} has {len(wanted)} axes; {name} of this data set has "
            f"{configuration.spatial_dims}, such as the plan's {[*configuration.patch_size]}."
        )
    changes: dict[str, Any] = {"patch_size": tuple(-(-int(size) // multiple) * multiple for size in wanted)}
    if batch_size is not None:
        changes["batch_size"] = int(batch_size)
    configurations = {**plan.configurations, name: dataclasses.replace(configuration, **changes)}
    return dataclasses.replace(plan, configurations=configurations)
