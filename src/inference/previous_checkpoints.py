"""Where the checkpoints of a cascade's previous stage lie, and whether they are those of the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from umamba.files import file_hash
from umamba.inference.ensemble import find_ensemble, read_ensemble
from umamba.inference.previous_facts import PreviousFacts
from umamba.inference.previous_stage import PreviousStage
from umamba.planning.plan import Plan

log = logging.getLogger(__name__)

_OF_THE_DATA = ("channel_names", "labels", "regions", "ignore_label", "transpose_forward", "intensities")
_OF_THE_STAGE = ("spacing", "normalization", "use_mask_for_norm")


def load_previous(
    checkpoints: Sequence[tuple[str | Path, dict[str, Any]]],
    plan: Plan,
    given: object,
    device: torch.device,
    *,
    mirror: bool = False,
    trusted: str | Sequence[str] = (),
) -> PreviousStage:
    """Load the previous stage of checkpoints of a next stage.

    Args:
        checkpoints: Files and their contents, of one plan and configuration.
        plan: Theirs.
        given: Where its checkpoints lie: folder or ensemble.json of its cross-validation, or files; None looks where
            they were in training, from the checkpoint and from the root.
        device: Where its networks run.
        mirror: As of `members_of`.
        trusted: As for `load_checkpoint`.

    Raises:
        FileNotFoundError: Its checkpoints are not where they were.
        ValueError: They are others than those of the training, are of another data set or of another previous stage;
            or the checkpoints do not agree in it.
    """
    (first, content), *_ = checkpoints
    stage = str(plan.configuration(content["configuration"]).previous_stage)
    facts = facts_of_all(checkpoints)
    found = previous_checkpoints(Path(first), facts, given, stage)
    held_out = {} if facts is None else facts.held_out
    previous = PreviousStage.load(found, held_out, device, mirror=mirror, trusted=trusted)
    check_previous_plan(previous.plan, previous.configuration, plan, stage, next(iter(found.values())))
    log.info("%s predicts with %d network(s) of %s before it.", first, len(found), stage)
    return previous


def facts_of_all(checkpoints: Sequence[tuple[str | Path, Mapping[str, Any]]]) -> PreviousFacts | None:
    """What checkpoints of a next stage, files and their contents, say of their previous stage; None if nothing.

    Raises:
        ValueError: They do not agree in it.
    """
    (first, content), *others = checkpoints
    facts = PreviousFacts.of(content, first)
    for path, other in others:
        apart = PreviousFacts.of(other, path)
        if (apart and apart.hashes) != (facts and facts.hashes):
            raise ValueError(f"{path} was trained with another previous stage than {first}; they cannot be averaged.")
    return facts


def check_previous_plan(previous: Plan, name: str, plan: Plan, stage: str, path: Path) -> None:
    """See that a checkpoint is of the previous stage of a plan, and of the same data (else ValueError)."""
    if name != stage:
        raise ValueError(f"{path} was trained as {name}; the previous stage of this cascade is {stage}.")
    apart = [key for key in _OF_THE_DATA if getattr(previous, key) != getattr(plan, key)]
    one, other = previous.configuration(name), plan.configuration(stage)
    apart += [f"configurations.{stage}.{key}" for key in _OF_THE_STAGE if getattr(one, key) != getattr(other, key)]
    if apart:
        raise ValueError(
            f"{path} was trained with another plan than the next stage's: they differ in {', '.join(apart)}. Train the "
            "previous stage on the present data and plan, with another run_dir."
        )


def given_checkpoints(given: object) -> list[Path]:
    """The checkpoints that previous_stage=... names: those of a cross-validation's folder or ensemble.json, or files.

    Raises:
        FileNotFoundError, ValueError: See `find_ensemble` and `read_ensemble`; or there is no such file.
    """
    ensemble = find_ensemble(given)
    if ensemble is not None:
        return [path for group in read_ensemble(ensemble).groups for path in group.checkpoints]
    paths = [Path(one) for one in ([given] if isinstance(given, (str, Path)) else given)]  # type: ignore[attr-defined]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"previous_stage={given}: there is no {', '.join(missing)}.")
    return paths


def previous_checkpoints(beside: Path, facts: PreviousFacts | None, given: object, stage: str) -> dict[int, Path]:
    """Fold -> checkpoint of the previous stage, each the one of the training, known by its hash.

    Raises:
        FileNotFoundError, ValueError: As of `load_previous`.
    """
    way_out = f"Say where it is with previous_stage=<folder of the cross-validation of {stage}>."
    if facts is None:
        if given is None:
            raise ValueError(
                f"{beside} is the second stage of a cascade and does not say which networks were the first one, "
                f"{stage}. {way_out}"
            )
        return dict(enumerate(given_checkpoints(given)))
    if given is not None:
        known = {file_hash(path): path for path in given_checkpoints(given)}
        if missing := [one.fold for one in facts.members if one.hash not in known]:
            raise ValueError(
                f"previous_stage={given} has not the networks that {beside} was trained with, of fold "
                f"{', '.join(map(str, missing))} of {stage}: they were trained on, or are of another cascade. Give "
                "the folder of its own, or train the second stage anew."
            )
        return {one.fold: known[one.hash] for one in facts.members}
    found: dict[int, Path] = {}
    for one in facts.members:
        places = one.find(beside)
        if not places:
            raise FileNotFoundError(
                f"{beside} predicts with {stage}, whose fold {one.fold} was {one.checkpoint} and is not there. "
                f"{way_out}"
            )
        same = [path for path in places if file_hash(path) == one.hash]
        if not same:
            raise ValueError(
                f"{places[0]} is another network than the one that {beside} was trained with as fold {one.fold} of "
                f"{stage}: it was trained on, or replaced. {way_out} Or train the second stage anew."
            )
        found[one.fold] = same[0]
    return found
