"""Names that say in what networks of one name differ: their training, their data, what was done to their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from umamba.evaluation.identity import by_loss, differing, name_apart, names_of, telling_apart
from umamba.evaluation.report.scored_run import ScoredRun

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
_SHOWN = 4  # digits of a hash in a name


def named_apart(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """The runs with suffixes where networks of one name differ.

    They are told apart first by their training, whatever was done beyond the plain prediction, then by the rest. Where
    runs of a data set differ in more than their networks, all of its names say in what.
    """
    runs = _by_training_set(runs)
    told = {}
    for dataset in {run.dataset for run in runs}:
        some = [run for run in runs if run.dataset == dataset]
        told[dataset] = in_names([run.record["network"] for run in some], [run.facts for run in some])
    beyond = ("mirror", "members", "rules")
    runs = _suffix(runs, [(run.dataset, run.record["network"] + run.suffix) for run in runs], beyond, told)
    return _suffix(runs, [(run.dataset, run.network) for run in runs], (), {})


def _by_training_set(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Whatever a network is called, it is said where the others of its data set were trained on other cases."""
    named: dict[int, ScoredRun] = {}
    for dataset in {run.dataset for run in runs}:
        some = {index: run for index, run in enumerate(runs) if run.dataset == dataset}
        suffixes = sets_apart([run.training_sets for run in some.values()])
        named |= {
            i: replace(run, suffix=run.suffix + end) for (i, run), end in zip(some.items(), suffixes, strict=True)
        }
    return [named[index] for index in range(len(runs))]


def _suffix(
    runs: Sequence[ScoredRun],
    names: Sequence[tuple[str, str]],
    leave_out: Sequence[str],
    told: Mapping[str, Sequence[str]],
) -> list[ScoredRun]:
    facts = [{key: value for key, value in run.facts.items() if key not in leave_out} for run in runs]
    keys = [repr(sorted(one.items())) for one in facts]
    apart: dict[tuple[str, str, str], str] = {}
    for name in set(names):
        distinct = {key: one for key, one, other in zip(keys, facts, names, strict=True) if other == name}
        suffixes = name_apart(list(distinct.values()), told.get(name[0], ()))
        for key, suffix in zip(distinct, suffixes, strict=True):
            apart[*name, key] = suffix
    return [
        replace(run, suffix=run.suffix + apart[*name, key]) for run, name, key in zip(runs, names, keys, strict=True)
    ]


def beyond_networks(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of all facts beyond the networks in which the runs of one data set differ.

    Left out is what is a network's own: its options, optimiser, schedule and precision, and a planned patch rounded up
    as it needs.

    Returns:
        Those of the configuration first; empty if there is one network only.
    """
    return differing(_conditions(networks, facts))


def in_names(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """As few keys of `beyond_networks` as tell apart all runs that differ in any of them."""
    return telling_apart(by_loss(_conditions(networks, facts)))


def in_words(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sentences call all of `beyond_networks`: what is in the names first; a loss that is another one is one."""
    named = in_names(networks, facts)
    return names_of([*named, *(key for key in differing(by_loss(_conditions(networks, facts))) if key not in named)])


def _conditions(networks: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What of the facts no network has a say in; none where there is one network only."""
    if len(set(networks)) < 2:
        return []
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


def sets_apart(sets: Sequence[tuple[tuple[str, int], ...]]) -> list[str]:
    """What to put behind the name of each network of a data set: nothing where all were trained on one set of cases.

    Args:
        sets: Of each, hash and number of cases of the sets of its members; empty where it is unknown.
    """
    known = {one for one in sets if one}
    if len(known) < 2:
        return ["" for _ in sets]
    counts = [tuple(number for _, number in one) for one in known]
    plain = len(set(counts)) == len(counts)  # as many cases as no other set has
    return [" (training set unknown)" if not one else f" (training set {_named(one, plain)})" for one in sets]


def _named(one: tuple[tuple[str, int], ...], plain: bool) -> str:
    return " + ".join(f"of {number}" if plain else f"{digest[:_SHOWN]} of {number}" for digest, number in one)
