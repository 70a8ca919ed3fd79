"""Which cases a checkpoint may be scored on: those that none of its networks was trained on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.splits import select_split
from umamba.evaluation.members import Member
from umamba.planning.raw_files import contents, known_voxels
from umamba.raw.dataset import RawCase
from umamba.raw.file_identity import fingerprint
from umamba.raw.image_marks import CHANNEL, joined, known_by
from umamba.raw.known_images import WHY_DOUBT, KnownImages, Match
from umamba.raw.orientation import orientation
from umamba.raw.readers import is_picture, read_geometry
from umamba.words import listed

log = logging.getLogger(__name__)


def cases_of_training(datamodule: SegmentationDataModule) -> dict[str, Any]:
    """What a checkpoint keeps of the split, for the folds of a data set may be dealt anew.

    That is ``trained_on`` (case -> mark of its first image), by which a case is known again under another name;
    ``validated_with`` (cases); and ``files``: case, trained on or validated with -> marks of its other files, "label"
    and "channel_1" and so on, for who goes on with other labels trains on other data. ``orientations`` are those of the
    images, for prediction to say where others are turned. Marks are those of `umamba.raw.image_marks`.

    Args:
        datamodule: With its raw data open.

    Raises:
        ValueError: A case to validate with or to test has the image of one to train on, under another name: its scores
            would be of seen data. Both are named.
    """
    used = {*datamodule.train_ids, *datamodule.val_ids}
    cases = [case for case in datamodule.raw.training_cases if case.identifier in used]
    voxels = _voxels(datamodule, cases)
    marks = _marks(cases, voxels)
    trained_on = {name: marks[name][0] for name in datamodule.train_ids}
    known = {name: known_by(marks[name]) for name in datamodule.train_ids}
    if datamodule.fold != "all":
        _refuse_twins(known, [case for case in cases if case.identifier in datamodule.val_ids], marks)
    _refuse_twins(known, [case for case in datamodule.raw.test_cases if case.label is not None], {})
    labels = contents([case.label for case in cases if case.label], datamodule.raw.folder, datamodule.prepared_dir)
    files = {case.identifier: _other_files(case, marks[case.identifier], labels, voxels) for case in cases}
    volumes = [case.images[0] for case in cases if not is_picture(case.images[0])]
    turns = {orientation(path, read_geometry(path)) for path in volumes} - {None}
    return {
        "trained_on": trained_on, "validated_with": list(datamodule.val_ids), "files": files,
        "orientations": sorted(turns),
    }  # fmt: skip


SOURCE = "init_from/"  # how the names of cases begin that a training's first weights were trained on


def add_source(cases: dict[str, Any], datamodule: SegmentationDataModule, seen: Mapping[str, str]) -> None:
    """Count the cases that a training's first weights were trained on among those of the training itself.

    Args:
        cases: Of `cases_of_training`; gets them, under names of their own, for two data sets may call cases the same.
        datamodule: With its raw data open.
        seen: Case of the source -> mark by which it is known, see `umamba.raw.image_marks.of_cases`.

    Raises:
        ValueError: The source was trained on a case to validate with or to test: its scores would be of seen data.
    """
    held_out = [] if datamodule.fold == "all" else list(datamodule.val_ids)
    training = [case for case in datamodule.raw.training_cases if case.identifier in set(held_out)]
    tested = [case for case in datamodule.raw.test_cases if case.label is not None]
    marks, images = _marks(training, _voxels(datamodule, training)), KnownImages(seen)
    found = _found(images, [*training, *tested], marks)
    known = sorted(name for name, source in found.items() if source.name is not None)
    if known:
        raise ValueError(
            f"init_from was trained on {len(known)} of the cases that this training validates with or tests: "
            f"{listed(known)}. Their scores would be of seen data. Take a checkpoint of the same fold, or fold=all "
            "and score on cases that neither saw."
        )
    _say_doubts("init_from", found)
    cases["trained_on"] |= {SOURCE + name.removeprefix(SOURCE): mark for name, mark in seen.items()}


def source_of(cases: Mapping[str, Any]) -> dict[str, str]:
    """What `add_source` has added to the cases of a checkpoint."""
    return {name: mark for name, mark in (cases.get("trained_on") or {}).items() if name.startswith(SOURCE)}


def _voxels(datamodule: SegmentationDataModule, cases: Iterable[RawCase]) -> dict[Path, str]:
    """What the preparation knows of the voxels of training cases' files; nothing is read."""
    files = [path for case in cases for path in (*case.images, case.label) if path is not None]
    return known_voxels(files, datamodule.raw.folder, datamodule.prepared_dir)


def _marks(cases: Iterable[RawCase], voxels: Mapping[Path, str]) -> dict[str, list[str]]:
    """Case -> marks of its images."""
    return {case.identifier: [joined(fingerprint(path), voxels.get(path)) for path in case.images] for case in cases}


def _found(images: KnownImages, cases: Iterable[RawCase], marks: Mapping[str, Sequence[str]]) -> dict[str, Match]:
    """Case -> what is known of its image."""
    return {case.identifier: images.find(case.images, marks.get(case.identifier, ())) for case in cases}


def _say_doubts(who: object, found: Mapping[str, Match], held_out: Iterable[str] = ()) -> None:
    """Say of which cases nobody can tell; those that a checkpoint itself has held out are no copies."""
    own = set(held_out)
    if doubtful := sorted(name for name, match in found.items() if match.doubt or (match.copy and name not in own)):
        log.warning(
            "Nobody can tell whether %s was trained on %d of the cases to be scored: %s. %s",
            who, len(doubtful), listed(doubtful), WHY_DOUBT,
        )  # fmt: skip


def _other_files(
    case: RawCase, marks: Sequence[str], labels: Mapping[Path, str], voxels: Mapping[Path, str]
) -> dict[str, str]:
    """Marks of what that of the first image leaves out of a case.

    Labels are hashed whole: two of them differ in a few voxels only, and they are small when compressed.
    """
    channels = {f"{CHANNEL}{index}": mark for index, mark in enumerate(marks[1:], start=1)}
    if case.label is None:
        return channels
    return {**channels, "label": joined(labels[case.label], voxels.get(case.label))}


def choose_cases(
    members: Sequence[Member], datamodule: SegmentationDataModule, cases: str
) -> tuple[list[RawCase], str]:
    """The cases to score.

    Args:
        members: One checkpoint, or those of an ensemble.
        datamodule: With its raw data open.
        cases: "test": those of the test set that have labels, or where it has none as "validation"; "validation": those
            that every member was validated with.

    Returns:
        The cases, sorted by name, and what they are: "test", "validation", or "training" for a single checkpoint of
        fold "all" on a data set without labelled test cases.

    Raises:
        ValueError: There is no such case, or a member was trained on some of them; names checkpoint, fold and cases.
    """
    if cases not in ("test", "validation"):
        raise ValueError(f"cases must be test or validation, it is {cases!r}.")
    labelled = [case for case in datamodule.raw.test_cases if case.label is not None]
    if cases == "test" and labelled:
        for member in members:
            _refuse_seen(member, labelled, names=(), marks={})
        return labelled, "test"
    training = {case.identifier: case for case in datamodule.raw.training_cases}
    of_all = [member for member in members if member.fold == "all"]
    if of_all and cases == "test" and len(members) == 1:
        log.warning(
            "%s was trained on all cases that have labels: their scores say nothing of new ones.", members[0].path
        )
        return list(training.values()), "training"
    if of_all:
        raise ValueError(
            f"{of_all[0].path} was trained on every training case (fold all): there is no case to score it on but "
            f"labelled test cases. {_WAY_OUT}"
        )
    held_out = [_held_out(member, datamodule, training) for member in members]
    chosen = sorted(set.intersection(*held_out))
    if not chosen:
        listing = "; ".join(
            f"{member.path} (fold {member.fold}) holds out {listed(sorted(names))}"
            for member, names in zip(members, held_out, strict=True)
        )
        raise ValueError(
            f"The {len(members)} members of the ensemble have no case in common that none was trained on: {listing}. "
            f"{_WAY_OUT}"
        )
    if len(chosen) < len(set.union(*held_out)):
        log.info("Only the %d case(s) that no member was trained on are scored: %s.", len(chosen), listed(chosen))
    held = [training[name] for name in chosen]
    marks = _marks(held, _voxels(datamodule, held))
    for member in members:
        _refuse_seen(member, held, names=chosen, marks=marks)
    return held, "validation"


_WAY_OUT = (
    "Score the checkpoints one by one on their own folds (ensemble=false cases=validation), or give the data set a "
    "test set with labels (imagesTs, labelsTs)."
)


def _held_out(member: Member, datamodule: SegmentationDataModule, training: Iterable[str]) -> set[str]:
    """The validation cases of the member's own fold, as they were when it was trained."""
    known = set(training)
    if member.validated_with is not None:
        gone = sorted(set(member.validated_with) - known)
        if gone:
            raise ValueError(
                f"{member.path} (fold {member.fold}) was validated with cases that {datamodule.dataset_dir} does not "
                f"have: {listed(gone)}. Point data.dataset_dir at the data set it was trained on; cases of another one "
                "belong into its imagesTs and labelsTs."
            )
        return set(member.validated_with)
    planned = member.plan["num_training"]
    if planned != len(known):
        raise ValueError(
            f"{member.path} (fold {member.fold}) does not say which cases it was trained on, and there were {planned} "
            f"then while {datamodule.dataset_dir} has {len(known)} now: it may have seen any of them. Score it on "
            "labelled test cases (imagesTs, labelsTs)."
        )
    if member.fold is None:
        raise ValueError(
            f"{member.path} says neither its fold nor which cases it was trained on. Score it on labelled test cases "
            "(imagesTs, labelsTs)."
        )
    return set(select_split(sorted(known), member.fold, (datamodule.prepared_dir, datamodule.dataset_dir)).val)


def _refuse_seen(
    member: Member, cases: Iterable[RawCase], names: Iterable[str], marks: Mapping[str, Sequence[str]]
) -> None:
    """Refuse cases whose image is one that was trained on, and training cases (`names`) that are called like one."""
    if member.trained_on is None:
        return
    called = set(names) & set(member.trained_on)
    # Cases of the training have a network of a previous stage that did not see them.
    before = member.previous.trained_on if not names and member.previous is not None else {}
    found = _found(KnownImages(member.marks, before), cases, marks)
    seen = [name for name, match in found.items() if name in called or match.name is not None]
    if seen:
        raise ValueError(
            f"{member.path} (fold {member.fold}) was trained on {len(seen)} of the cases to be scored: {listed(seen)}. "
            "Remove them from the test set, or take checkpoints of another fold."
        )
    _say_doubts(f"{member.path} (fold {member.fold})", found, held_out=names)


_BY_CHANNEL = (
    " Cases are known by their first channel of more than one value. If that is the same for all by design, as a map "
    "of coordinates is, let another be channel 0000."
)


def _refuse_twins(
    trained_on: Mapping[str, str], held_out: Iterable[RawCase], marks: Mapping[str, Sequence[str]]
) -> None:
    cases = list(held_out)
    found = _found(KnownImages(trained_on), cases, marks)
    twins = [f"{name} = {match.name}" for name, match in found.items() if match.name not in (None, name)]
    if twins:
        several = any(len(case.images) > 1 for case in cases)
        raise ValueError(
            f"{len(twins)} case(s) to validate with or to test have the image of a case to train on: {listed(twins)}. "
            f"Remove one of each pair, or put both into one part of splits_final.json.{_BY_CHANNEL * several}"
        )
