"""Whether a data set gives channels and label values the meaning that a checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umamba.evaluation.members import Member
from umamba.raw.dataset import RawDataset


def check_same_meaning(member: Member, raw: RawDataset) -> None:
    """See that a checkpoint and the data set that it is to be scored on mean the same by their numbers.

    A network knows channels and classes by number alone, and scores are of a number under the checkpoint's name: where
    a dataset.json numbers them otherwise, one class would be scored under the name of another. Names of channels are
    the same in upper and lower case, as they are when "CT" is looked for.

    Args:
        member: The checkpoint.
        raw: The data set.

    Raises:
        ValueError: Labels, regions, ignore label or channels differ; names both sides of each.
    """
    plan = member.plan
    sides = {
        "labels": (_foreground(plan["labels"]), _foreground(raw.labels)),
        "regions": (_regions(plan.get("regions")), _regions(raw.regions)),
        "ignore label": (plan.get("ignore_label"), raw.ignore_label),
        "channels": tuple([name.casefold() for name in names] for names in (plan["channel_names"], raw.channel_names)),
    }
    shown = {
        "labels": (dict(plan["labels"]), dict(raw.labels)),
        "channels": ([*plan["channel_names"]], [*raw.channel_names]),
    }
    apart = []
    for what, (one, other) in sides.items():
        if one != other:
            one, other = shown.get(what, (one, other))
            apart.append(f"{what} {one} in the checkpoint, {other} there")
    if apart:
        raise ValueError(
            f"{member.path} was trained with another meaning of channels or label values than "
            f"{raw.folder / 'dataset.json'} declares: {'; '.join(apart)}. Its predictions would be scored under wrong "
            "names. Bring files and dataset.json of the data set into the checkpoint's order and numbers, or point "
            "data.dataset_dir at a data set that has them."
        )


def _foreground(labels: Mapping[str, int]) -> dict[str, int]:
    return {name: int(value) for name, value in labels.items() if value != 0}


def _regions(regions: Mapping[str, Any] | None) -> dict[str, list[int]]:
    return {name: sorted(int(value) for value in values) for name, values in (regions or {}).items()}
