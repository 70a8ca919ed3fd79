"""Names that say in what networks of one name differ: their training, their data, what was done to their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from umamba.evaluation.identity import name_apart
from umamba.evaluation.report.conditions import in_names
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.training_data import sets_apart


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
