"""Whether trainings are the folds of one cross-validation: one network, one plan, one data set, one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.identity import check_one_network
from umamba.evaluation.members import Member
from umamba.evaluation.same_meaning import check_same_meaning
from umamba.evaluation.same_table import check_one_data_set
from umamba.planning.plan import Plan
from umamba.run.compare import differences, in_lines

_WAY_OUT = "Train them anew by one command, with another run_dir."
_SHOWN = 5


def check_folds(
    members: Mapping[int, Member], held_out: Mapping[int, Sequence[str]], datamodules: Sequence[SegmentationDataModule]
) -> None:
    """See that checkpoints are folds of one cross-validation.

    Args:
        members: Fold -> its checkpoint.
        held_out: Fold -> the cases that it was validated with.
        datamodules: Of the folds, in their order, with their raw data open.

    Raises:
        ValueError: A checkpoint is of another fold; or they differ in network, settings, plan, data set or the meaning
            of labels and channels; or two hold out the same case. Says which, and what differs.
    """
    for number, member in members.items():
        if member.fold != number:
            raise ValueError(
                f"{member.path} was trained as fold {member.fold}, it stands for fold {number}. {_WAY_OUT}"
            )
    (first, one), *others = members.items()
    for number, member in others:
        apart = differences(_plan(one), _plan(member))
        if apart:
            raise ValueError(
                f"Folds {first} and {number} ({one.path} and {member.path}) have different plans:{in_lines(apart)}\n"
                f"{_WAY_OUT}"
            )
    check_one_network(list(members.values()))
    paths: list[Path] = [member.path for member in members.values()]
    check_one_data_set(dict(zip(paths, datamodules, strict=True)))
    for member, datamodule in zip(members.values(), datamodules, strict=True):
        check_same_meaning(member, datamodule.raw)
    holders: dict[str, int] = {}
    for number, cases in held_out.items():
        twice = sorted(case for case in cases if case in holders)
        if twice:
            raise ValueError(
                f"Folds {holders[twice[0]]} and {number} both hold out {', '.join(twice[:_SHOWN])}: they are of two "
                f"splits of the data set. {_WAY_OUT}"
            )
        holders |= dict.fromkeys(cases, number)


def _plan(member: Member) -> dict[str, object]:
    """Configuration and its part of the plan as plain data, in their present form, whatever version wrote them."""
    plan = Plan.from_dict(dict(member.plan))
    return {"configuration": member.configuration, "plan": plan.trained_part(member.configuration)}
