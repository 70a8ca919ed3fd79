"""The previous stage of a cascade: its networks segment an image, and the next stage's see that beside the image.

The logits of the low resolution are resampled to the grid of the next stage's preprocessed image, linearly as nnU-Net
does it, and decided there: the same for the cases of a training as for new ones. (nnU-Net's command line goes through a
file on the image's own grid when it predicts, and from there by the labels, which moves borders by part of a voxel.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba.inference.members import Member, members_of
from umamba.inference.one_case import CasePredictor
from umamba.models.checkpoint import load_checkpoint
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties
from umamba.planning.previous_maps import one_hot
from umamba.raw.readers import Geometry

_SHOWN = 5  # cases that a message names


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
        """Segment from now on each case by the network that did not see it (ValueError: there is none)."""
        seen = sorted(set(names) - self.held_out.keys())
        if seen:
            raise ValueError(
                f"No network of the previous stage has held out {', '.join(seen[:_SHOWN])}: what it segments there is "
                "no measure of new cases. Score the cascade on a test set with labels (imagesTs, labelsTs)."
            )
        self.out_of_fold = True
