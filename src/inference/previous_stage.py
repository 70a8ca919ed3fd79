"""The previous stage of a cascade: its networks segment an image, and the next stage's see that beside the image.

The logits of the low resolution are resampled to the grid of the next stage's preprocessed image, linearly as nnU-Net
does it, and decided there: the same for the cases of a training as for new ones. (nnU-Net's command line goes through a
file on the image's own grid when it predicts, and from there by the labels, which moves borders by part of a voxel.)
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba.files import file_hash
from umamba.inference.ensemble import find_ensemble, read_ensemble
from umamba.inference.members import Member, members_of
from umamba.inference.one_case import CasePredictor
from umamba.inference.previous_facts import PreviousFacts
from umamba.models.checkpoint import load_checkpoint
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties
from umamba.planning.previous_maps import one_hot
from umamba.raw.readers import Geometry

log = logging.getLogger(__name__)

_SHOWN = 5  # cases that a message names
_OF_THE_DATA = ("channel_names", "labels", "regions", "ignore_label", "transpose_forward", "intensities")
_OF_THE_STAGE = ("spacing", "normalization", "use_mask_for_norm")


class PreviousStage:
    """Networks of the folds of a previous stage.

    Args:
        members: The network of each fold.
        plan: Of the networks.
        configuration: Of the plan, the previous stage's.
        config: See `CasePredictor`.
        device: Where the networks run.
        held_out: Case -> the fold that did not see it.

    Attributes:
        labels: Values of what it segments.
        out_of_fold: Whether each case is segmented by the network that did not see it alone; else by the mean of all,
            as a new case is.
    """

    def __init__(
        self,
        members: Mapping[int, Member],
        plan: Plan,
        configuration: str,
        config: dict[str, Any],
        device: torch.device,
        held_out: Mapping[str, int],
    ) -> None:
        def predictor(some: Sequence[Member]) -> CasePredictor:
            return CasePredictor(some, plan, configuration, config, device)

        self.plan, self.labels = plan, plan.foreground_labels
        self.held_out, self.out_of_fold = held_out, False
        self._together = predictor(list(members.values()))
        self._alone = {fold: predictor([member]) for fold, member in members.items()}

    @classmethod
    def load(
        cls,
        checkpoints: Mapping[int, Path],
        held_out: Mapping[str, int],
        device: torch.device,
        *,
        mirror: bool = False,
        trusted: str | Sequence[str] = (),
    ) -> PreviousStage:
        """Load the networks.

        Args:
            checkpoints: Fold -> file.
            held_out: See the class.
            device: See the class.
            mirror: As of `members_of`.
            trusted: As for `load_checkpoint`.

        Raises:
            FileNotFoundError, ValueError: See `load_checkpoint` and `members_of`.
        """
        loaded = {fold: (path, load_checkpoint(path, trusted)) for fold, path in checkpoints.items()}
        return cls.of_contents(loaded, held_out, device, mirror=mirror)

    @classmethod
    def of_contents(
        cls,
        checkpoints: Mapping[int, tuple[Path, Mapping[str, Any]]],
        held_out: Mapping[str, int],
        device: torch.device,
        *,
        mirror: bool = False,
    ) -> PreviousStage:
        """Make one of checkpoints that are in memory: fold -> file and its content; else as of `load`."""
        members, plan, name = members_of(list(checkpoints.values()), device, mirror)
        config = next(iter(checkpoints.values()))[1]["config"]
        return cls(dict(zip(checkpoints, members, strict=True)), plan, name, config, device, held_out)

    @property
    def configuration(self) -> str:
        """Name of the configuration of its networks."""
        return self._together.configuration.name

    def made_by(self) -> dict[str, Any]:
        """What tells its segmentations from those of others, as plain data."""
        networks = [member.made_by() for member in self._together.members]
        return {"networks": networks, "plan": self.plan.hash(), "out_of_fold": self.out_of_fold}

    def segment(
        self, image: np.ndarray, geometry: Geometry, onto: CaseProperties, name: str | None, step: float
    ) -> np.ndarray:
        """Segment an image.

        Args:
            image: (C, Z, Y, X) as read.
            geometry: As read.
            onto: Of the image as it is preprocessed for the next stage.
            name: Of the case, one that is held out if it is `out_of_fold`.
            step: Largest distance between windows, as a share of the patch.

        Returns:
            (Z, Y, X) label map on the grid of the preprocessed image, in the plan's order of axes.
        """
        predictor = self._alone[self.held_out[str(name)]] if self.out_of_fold else self._together
        predictor.step = step
        data, properties = predictor._preprocess(image, geometry)
        spacing = predictor.configuration.spacing
        target = dataclasses.replace(
            properties,
            geometry=dataclasses.replace(geometry, spacing=tuple(spacing[i] for i in self.plan.transpose_backward)),
            shape_before_crop=onto.shape,
            box=tuple((0, size) for size in onto.shape),
        )
        made = predictor._segment(data, target)
        return made.label.transpose(self.plan.transpose_forward)

    def channels(
        self, image: np.ndarray, geometry: Geometry, onto: CaseProperties, name: str | None, step: float
    ) -> np.ndarray:
        """As `segment`; one-hot (K, Z, Y, X) float32 of the foreground labels."""
        return one_hot(self.segment(image, geometry, onto, name, step), self.labels)

    def run_in(self, precision: str) -> None:
        """Compute its networks in a precision, see `CasePredictor.run_in`."""
        for predictor in (self._together, *self._alone.values()):
            predictor.run_in(precision)

    def only_unseen(self, names: Sequence[str]) -> None:
        """Segment from now on each case by the network that did not see it.

        Args:
            names: Of the cases to come.

        Raises:
            ValueError: All networks have seen one of them.
        """
        seen = sorted(set(names) - self.held_out.keys())
        if seen:
            raise ValueError(
                f"No network of the previous stage has held out {', '.join(seen[:_SHOWN])}: what it segments there is "
                "no measure of new cases. Score the cascade on a test set with labels (imagesTs, labelsTs)."
            )
        self.out_of_fold = True


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
    """See that a checkpoint is of the previous stage of a plan, and of the same data.

    Args:
        previous: The checkpoint's plan.
        name: The checkpoint's configuration.
        plan: Of the next stage.
        stage: Of the plan, the configuration that is the previous stage.
        path: The checkpoint's.

    Raises:
        ValueError: It is not; says what differs.
    """
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

    Args:
        beside: A checkpoint of the next stage.
        facts: What it says of the previous one.
        given: As of `load_previous`.
        stage: Configuration of the previous stage.

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
