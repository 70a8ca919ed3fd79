"""The folds of a cross-validation, read from their checkpoints, and predictions of the cases that they held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.held_out import choose_cases
from umamba.evaluation.identity import check_one_network
from umamba.evaluation.members import Member
from umamba.evaluation.pairs import Pair, pair_cases
from umamba.evaluation.prepared import Prepared, RunOptions
from umamba.evaluation.same_meaning import check_same_meaning
from umamba.evaluation.same_table import check_one_data_set
from umamba.files import read_json, writing_into
from umamba.inference.record import record_path
from umamba.models.checkpoint import datamodule_from_checkpoint, load_checkpoint
from umamba.planning.plan import Plan
from umamba.run.compare import differences, in_lines
from umamba.run.sweep import argument

SCORING = ("nsd_tolerance", "grow")  # of a data module: how predictions are scored, which no training depends on
_WAY_OUT = "Train them anew by one command, with another run_dir."
_SHOWN = 5


def predict_command(ensemble: Path, *, mirror: bool) -> str:
    """What predicts with an ensemble.json, or the folder with it, as a shell takes it; capitals are to be filled in."""
    words = ["python predict.py", argument("checkpoint", ensemble.resolve()), "input=IMAGES output=PREDICTIONS"]
    return " ".join([*words, *(["mirror=true"] if mirror else [])])


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How held-out cases are predicted.

    Attributes:
        mirror, device, trusted: As for `umamba.inference.predictor.Predictor.from_checkpoint`.
        workers: Processes that score; 0 or 1 scores in this one, None takes the CPUs at hand.
        scoring: What is scored in another way than the checkpoints say: `SCORING` -> value.
    """

    mirror: bool = False
    device: str = "auto"
    trusted: str | Sequence[str] = ()
    workers: int | None = None
    scoring: Mapping[str, Any] = field(default_factory=dict)

    def of_run(self) -> RunOptions:
        """The same for the scoring of one fold."""
        return RunOptions(cases="validation", mirror=self.mirror, device=self.device, trusted=self.trusted)


@dataclass(kw_only=True)
class Fold:
    """A fold that has been trained.

    Attributes:
        number: Which fold of the split it is, from 0 on.
        checkpoint: The file of its last checkpoint.
        member: What the checkpoint says of its training.
        datamodule: The data that it was trained on, with the raw data open.
        cases: Names of the cases that it held out.
    """

    number: int
    checkpoint: Path
    member: Member
    datamodule: SegmentationDataModule
    cases: list[str]


def read_folds(checkpoints: Mapping[int, Path], options: PoolOptions) -> list[Fold]:
    """Read checkpoints and see that they are folds of one cross-validation.

    Raises:
        FileNotFoundError: A checkpoint, or the data set, is missing.
        ValueError: See `check_folds`.
    """
    found = {}
    for number, path in checkpoints.items():
        checkpoint = load_checkpoint(path, options.trusted)
        found[number] = (Member.of(path, checkpoint), datamodule_from_checkpoint(checkpoint, {}))
        del checkpoint  # with its weights
    for _, datamodule in found.values():
        vars(datamodule).update(options.scoring)
        datamodule.open_raw()
    held_out = {
        number: [case.identifier for case in choose_cases([member], datamodule, "validation")[0]]
        for number, (member, datamodule) in found.items()
    }
    check_folds({number: member for number, (member, _) in found.items()}, held_out, [d for _, d in found.values()])
    return [
        Fold(number=number, checkpoint=checkpoints[number], member=member, datamodule=datamodule,
              cases=held_out[number])
        for number, (member, datamodule) in found.items()
    ]  # fmt: skip


def predict_held_out(prepared: Prepared, place: Path, *, keep: Sequence[str] = ()) -> list[Pair]:
    """Predict the chosen cases of a fold; those that the same network has predicted in the same way are left."""
    same = read_json(record_path(place, (0, 1))).get("made_by") == prepared.predictor.made_by(keep)
    with writing_into(place):
        prepared.predictor.predict_cases(prepared.chosen, place, keep=keep, resume=same)
    return pair_cases(prepared.chosen, place, prepared.scoring)


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
