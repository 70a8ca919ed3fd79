"""The folds of the first stage that a training of the second stage is given: which cases each of them did not see."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from pathlib import Path

from umamba.cross_validation.folds import check_folds
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.splits import Split, select_split
from umamba.evaluation.held_out import choose_cases
from umamba.evaluation.identity import plan_of, training_of
from umamba.evaluation.members import Member
from umamba.files import content_hash
from umamba.inference.ensemble import Ensemble, find_ensemble, read_ensemble
from umamba.inference.previous_checkpoints import check_previous_plan
from umamba.inference.previous_facts import PreviousFacts, member_of
from umamba.planning.cascade import LOW
from umamba.planning.plan import Plan
from umamba.run.sweep import quoted
from umamba.words import listed

_OF_ONE_FOLD = re.compile(  # overrides that a cross-validation has not
    r"~cross_validation$|~cascade$|fold=|data\.fold=|run_dir=|data\.num_workers="
)


def open_folds(folder: str | Path) -> Ensemble:
    """The cross-validation in a folder, with the checkpoints as they were when it was finished.

    Raises:
        FileNotFoundError: There is none, or folds are not trained; says which, and the command that trains them.
        ValueError: It is none, or a checkpoint was trained on since.
    """
    path = Path(folder)
    command = command_of_folds(path if path.suffix != ".json" else path.parent, LOW)
    if not path.exists():
        raise FileNotFoundError(f"previous_stage={folder}: there is no such folder. Train the first stage: {command}")
    try:
        found = find_ensemble(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"previous_stage: {error} The command is: {command}") from error
    if found is None:
        raise ValueError(
            f"previous_stage={folder} is a file. Expected the folder of a cross-validation, whose folds segment each "
            f"case without having seen it: {command}"
        )
    ensemble = read_ensemble(found)
    if "folds" not in ensemble.content or len(ensemble.groups) != 1:
        raise ValueError(f"previous_stage={folder} is of no cross-validation, it was chosen among some. Give that one.")
    ensemble.check_unchanged()
    return ensemble


def read_previous(
    ensemble: Ensemble, datamodule: SegmentationDataModule, checkpoints: Path
) -> tuple[PreviousFacts, dict[int, Path]]:
    """See that folds are a first stage for a training, and say which of them did not see which case.

    Args:
        ensemble: From `open_folds`.
        datamodule: Of the second stage, with its plan made.
        checkpoints: Folder of the second stage's checkpoints.

    Returns:
        What the second stage's checkpoints will say of it; and fold -> checkpoint.

    Raises:
        ValueError: They are of other data, labels or plans than the second stage, see `check_folds`,
            `check_previous_plan` and `choose_cases`; or all have seen a case of the training, or none.
    """
    numbers = [int(fold["fold"]) for fold in ensemble.content["folds"]]
    paths = dict(zip(numbers, ensemble.groups[0].checkpoints, strict=True))
    members = {fold: Member.read(path) for fold, path in paths.items()}
    first = members[numbers[0]]
    stage = str(datamodule.plan_configuration.previous_stage)
    check_previous_plan(Plan.from_dict(dict(first.plan)), first.configuration, datamodule.plan, stage, first.path)
    held_out = {
        fold: [case.identifier for case in choose_cases([member], datamodule, "validation")[0]]
        for fold, member in members.items()
    }
    check_folds(members, held_out, [datamodule] * len(members))
    _check_complete(held_out, datamodule, ensemble.path.parent, stage)
    facts = PreviousFacts(
        configuration=stage,
        training=content_hash([first.network, training_of(first), plan_of(first), ensemble.mirror]),
        mirror=ensemble.mirror,
        members=tuple(
            member_of(fold, path, known, held_out[fold], checkpoints)
            for (fold, path), known in zip(paths.items(), ensemble.groups[0].hashes, strict=True)
        ),
        trained_on={case: mark for member in members.values() for case, mark in member.marks.items()},
    )
    return facts, paths


def command_of_folds(folder: Path, stage: str, folds: Iterable[int] = ()) -> str:
    """The command that trains what is missing of a cross-validation, with the overrides of one of its folds."""
    overrides = ["data=...", "model=...", f"data.configuration={stage}"]
    for path in sorted(folder.glob("fold_*/overrides.txt")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        overrides = [line for line in lines if not _OF_ONE_FOLD.match(line)]
        break
    if asked := ",".join(map(str, folds)):
        overrides = [line for line in overrides if not line.startswith("cross_validation.folds=")]
        overrides.append(f"cross_validation.folds=[{asked}]")
    words = ["python", "train.py", "--config-name=cross_validation", *overrides, f"run_dir={quoted(str(folder))}"]
    return " ".join(map(_word, words))


def split_of(datamodule: SegmentationDataModule, fold: int) -> Split:
    """The cases of a fold, be it the datamodule's own or another (ValueError: there is none such)."""
    identifiers = [case.identifier for case in datamodule.raw.training_cases]
    places = (datamodule.prepared_dir, datamodule.dataset_dir)  # splits_final.json may lie there
    return select_split(identifiers, fold, places, datamodule.split_by)


def folds_holding_out(datamodule: SegmentationDataModule, cases: Iterable[str], besides: Collection[int]) -> list[int]:
    """Folds, except those of `besides`, that hold out any of these cases."""
    wanted = set(cases)
    found: list[int] = []
    for fold in count():
        try:
            split = split_of(datamodule, fold)
        except ValueError:  # the last one was before it
            return found
        if fold not in besides and wanted & set(split.val):
            found.append(fold)
    return found


def _word(text: str) -> str:
    """For the shell: in double quotes what holds the single ones of Hydra, where that means the same."""
    return f'"{text}"' if "'" in text and not re.search(r'["$`\\!]', text) else shlex.quote(text)


def _check_complete(
    held_out: Mapping[int, Iterable[str]], datamodule: SegmentationDataModule, folder: Path, stage: str
) -> None:
    known = {case for cases in held_out.values() for case in cases}
    needed = {*datamodule.train_ids, *datamodule.val_ids}
    missing = sorted(needed - known)
    if not missing:
        return
    lacking = folds_holding_out(datamodule, missing, besides=held_out.keys())
    which = (
        f"fold {', '.join(map(str, lacking))} of {stage} is missing" if lacking else f"no fold of {stage} held them out"
    )
    raise ValueError(
        f"previous_stage={folder}: {len(missing)} case(s) to train on or to validate with have no segmentation by a "
        f"network that did not see them ({listed(missing, 5)}): {which}. Train all folds, which goes on "
        f"with those that are there: {command_of_folds(folder, stage, sorted({*held_out, *lacking}))}"
    )
