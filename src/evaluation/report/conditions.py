"""What runs of one data set differ in beyond their networks: where they do, no comparison is of the networks alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umamba.evaluation.identity import by_loss, differing, names_of, telling_apart

# Of the facts of `facts_of`: what a network's own config decides (configs/model), and how it is computed.
_OF_NETWORK = ("cuda_graph", "network", "trainer.precision")
_PARTS_OF_NETWORK = ("model.", "optimizer.")
_IN_NAMES = ("members", "mirror", "rules")  # names always say so: ", mirrored"
_PLAN = "plan."
# Of the plan: what no network has a say in. Stages, features and strides follow from these and the network.
_OF_PLAN = ("batch_dice", "batch_size", "channel_names", "normalization", "patch_size", "spacing", "transpose_forward",
            "use_mask_for_norm")  # fmt: skip
_PATCH = f"{_PLAN}patch_size"
_MULTIPLES = (16, 32)  # patch_multiple of configs/model, beside 1
_PER_NETWORK = ("imported", "init_from")  # weights are each network's own: here only whether there were any
_PREVIOUS = "previous_stage."


def beyond_networks(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of all facts beyond the networks in which the runs of one data set differ.

    Left out is what is a network's own: its options, optimiser, schedule and precision, and a planned patch rounded up
    as it needs.

    Returns:
        Those of the configuration first; empty if there is one network only.
    """
    return differing(_conditions(facts)) if len(set(networks)) > 1 else []


def in_names(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """As few keys of `beyond_networks` as tell apart all runs that differ in any of them."""
    return telling_apart(by_loss(_conditions(facts))) if len(set(networks)) > 1 else []


def in_words(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sentences call all of `beyond_networks`: what is in the names first; a loss that is another one is one."""
    if len(set(networks)) < 2:
        return []
    named = in_names(networks, facts)
    return names_of([*named, *(key for key in differing(by_loss(_conditions(facts))) if key not in named)])


def _conditions(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    patches = [one.get(_PATCH) for one in facts]
    kept = []
    for one in facts:
        conditions = {key: value for key, value in one.items() if _is_condition(key)}
        conditions |= {key: True for key in _PER_NETWORK if key in one}
        if _PATCH in one:
            conditions[_PATCH] = _before_rounding(one[_PATCH], patches)
        kept.append(conditions)
    return kept


def _is_condition(key: str) -> bool:
    while key.startswith(_PREVIOUS):
        key = key.removeprefix(_PREVIOUS)
    if key.startswith(_PLAN):
        return key.removeprefix(_PLAN).partition(".")[0] in _OF_PLAN
    return key not in (*_OF_NETWORK, *_IN_NAMES) and not key.startswith(_PARTS_OF_NETWORK)


def _before_rounding(patch: Any, patches: Sequence[Any]) -> Any:
    """The smallest patch of the others that a network's `patch_multiple` makes this one of; or the patch itself."""
    if not _is_patch(patch):
        return patch
    planned = [
        other
        for other in patches
        if _is_patch(other) and any(patch == [-(-size // by) * by for size in other] for by in _MULTIPLES)
    ]
    return min([patch, *planned])


def _is_patch(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(size, int) for size in value)
