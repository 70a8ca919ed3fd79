"""What of a plan.json may be edited, and what only records how the plan was made; and the sizes that a run asks for.

Edits are known by comparison with the plan as it was made, which state.json beside it keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from umamba.planning.configuration import PlanError
from umamba.planning.plan import Plan

_BY_OPTION = "Set data.planning.{} and delete plan.json to plan anew"
_OF_DATA = "It follows from the data"
_RECORDS = {key: _BY_OPTION.format(key) for key in ("rule", "preset", "memory_gb", "base_features")}

_RECORDS |= dict.fromkeys(("num_training", "original_median_spacing", "original_median_shape"), _OF_DATA)
_RECORDS |= {"dataset_name": "It is the name in dataset.json"}
_OF_CONFIGURATION = {
    "median_shape": _OF_DATA,
    "estimate": "It is the cost that nnU-Net estimates of the planned network",
    "reference": "It is the budget of data.planning.preset and memory_gb",
    "patch_reason": "It says why the planner chose the patch",
    "batch_reason": "It says why the planner chose the batch",
    "residual_encoder": "The network is chosen by model=...; plan for it with data.planning.preset",
}
_NEUTRAL = (0, "", False)
_NORMALISING = ("mean", "std", "percentile_00_5", "percentile_99_5")  # used by CTNormalization
_TOPOLOGY = ("strides", "kernel_sizes", "features_per_stage")


def refuse_idle_edits(plan: Plan, planned: Mapping[str, Any], path: Path) -> None:
    """See that no key was edited that nothing follows.

    A configuration that was added may repeat, or inherit, what the planner recorded of the others.

    Raises:
        PlanError: One was; names all of them, what they were, and what to do instead.
    """
    faults = [
        f"{key} is {new!r:.80}, planned was {old!r:.80}. {advice}."
        for key, new, old, advice in _idle_edits(plan.to_dict(), planned)
    ]
    if faults:
        raise PlanError(
            f"{path} has edits that nothing would follow, of what records how the plan was made. Take them back:\n  "
            + "\n  ".join(faults)
        )


def edited_topology(plan: Plan, planned: Mapping[str, Any], configuration: str) -> list[str]:
    """Which keys of a configuration's topology were edited; of one that was added, those no planned one has so."""
    entries = planned["configurations"]
    known = [entries[configuration]] if configuration in entries else list(entries.values())
    now = plan.to_dict()["configurations"][configuration]
    return [key for key in _TOPOLOGY if all(now[key] != entry[key] for entry in known)]


def _idle_edits(now: Mapping[str, Any], planned: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    for key, advice in _RECORDS.items():
        if now[key] != planned.get(key, now[key]):
            yield key, now[key], planned[key], advice
    schemes = [entry["normalization"] for entry in now["configurations"].values()]
    for channel, (new, old) in enumerate(zip(now["intensities"], planned["intensities"], strict=False)):
        clipped = any(one[channel] == "CTNormalization" for one in schemes)
        for key in new:
            if new[key] != old[key] and not (clipped and key in _NORMALISING):
                advice = f"CTNormalization uses {', '.join(_NORMALISING)} of its channels; nothing else is used"
                yield f"intensities[{channel}].{key}", new[key], old[key], advice
    entries = planned["configurations"]
    for name, entry in now["configurations"].items():
        known = [entries[name]] if name in entries else list(entries.values())
        for key, advice in _OF_CONFIGURATION.items():
            values = [one[key] for one in known if key in one]
            if values and entry[key] not in values and not (name not in entries and entry[key] in _NEUTRAL):
                yield f"configurations.{name}.{key}", entry[key], values[0], advice


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
