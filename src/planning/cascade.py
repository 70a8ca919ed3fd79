"""nnU-Net's 3D cascade in a plan: a configuration whose network also sees what that of a previous stage predicts.

The previous stage segments at a low resolution, where a patch shows more of the body; the next one refines that at full
resolution. Source: Isensee et al., Nature Methods 2021; nnunetv2 2.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from umamba.planning.configuration import Configuration, PlanError

FULL, LOW, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade_fullres"  # what the planner calls them
LOWRES_TRIGGER = 0.25  # a patch below this share of the median case calls for a low resolution


def previous_stage(configurations: Mapping[str, Configuration], name: str) -> Configuration | None:
    """The configuration whose prediction a network of `name` sees; None where that is the image alone.

    Raises:
        PlanError: One of the two is of slices, for which there is no cascade, or the previous one has a previous stage
            itself.
    """
    entry = configurations[name]
    if entry.previous_stage is None:
        return None
    previous = configurations[entry.previous_stage]
    where = f"configurations.{name}.previous_stage = {entry.previous_stage!r}"
    for one in (entry, previous):
        if one.spatial_dims != 3:
            raise PlanError(f"{where}: a cascade is of two 3D configurations, {one.name} is of slices.")
    if previous.previous_stage is not None:
        raise PlanError(f"{where}: a cascade has two stages, {previous.name} is the second one of another cascade.")
    return previous


def why_none(configurations: Mapping[str, Configuration], name: str) -> str:
    """A sentence on why a plan has no low resolution or cascade; "" of other names."""
    if name not in (LOW, CASCADE):
        return ""
    if FULL not in configurations:
        return " A cascade is of volumes, and the images of this data set are single slices."
    full = configurations[FULL]
    share = math.prod(full.patch_size) / math.prod(full.median_shape)
    return (
        f" A low resolution, and the cascade with it, is planned where a patch of {FULL} has less than "
        f"{LOWRES_TRIGGER:.0%} of the voxels of the median case; here it has {share:.0%}"
        + (", but a low resolution would save less than half of the voxels" if share < LOWRES_TRIGGER else "")
        + f". {FULL} sees enough of a case by itself."
    )
