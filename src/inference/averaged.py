"""An ensemble of any checkpoints of one data set: of one plan, or of several plans and configurations."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba.inference.decision import Decision, last_above_zero
from umamba.inference.ensemble import Ensemble, read_ensemble
from umamba.inference.export import Export
from umamba.inference.predictor import Predictor
from umamba.inference.previous_facts import KEY as PREVIOUS
from umamba.inference.seen import TrainingCases
from umamba.machine import require_memory
from umamba.models.checkpoint import load_plain
from umamba.planning.plan import said_by
from umamba.raw.description import DatasetError
from umamba.raw.readers import Geometry

log = logging.getLogger(__name__)


class AveragedPredictor(Predictor):
    """Predictors of several plans or configurations, averaged as probabilities on the image's own grid.

    Each preprocesses the image for itself; their logits are of different grids and cannot be averaged.

    Args:
        parts: Two or more, of the same channels and labels.

    Raises:
        ValueError: They differ in channels, labels or file ending; says how.
    """

    def __init__(self, parts: Sequence[Predictor]) -> None:
        first = next((part for part in parts if part.needs_volumes), parts[0])
        for part in parts:
            other = said_by(part.plan)
            for what, one in said_by(first.plan).items():
                if one != other[what]:
                    raise ValueError(
                        f"Checkpoints of an ensemble must agree in {what}: {first.configuration.name} has {one}, "
                        f"{part.configuration.name} has {other[what]}."
                    )
        members = [member for part in parts for member in part.members]
        super().__init__(members, first.plan, first.configuration.name, first.config, first.device)
        self.parts = list(parts)
        self.training_cases = TrainingCases.together(part.training_cases for part in parts)
        if all(part.orientations for part in parts):
            self.orientations = frozenset.union(*(part.orientations for part in parts))

    def run_in(self, precision: str) -> None:
        """Compute all networks in a precision, see `Predictor.run_in`."""
        super().run_in(precision)
        for part in self.parts:
            part.run_in(precision)

    def _networks_made_by(self) -> dict[str, Any]:
        parts = [part._networks_made_by() for part in self.parts]
        return {key: [part.get(key) for part in parts] for key in {key: None for part in parts for key in part}}

    def _check_kept(self, keep: Sequence[str], *, nifti: bool) -> None:
        super()._check_kept(keep, nifti=nifti)
        if "logits" in keep:
            raise ValueError(
                "save_logits=true: networks of several plans are averaged as probabilities, there are no logits of all "
                "of them. Keep the probabilities, or predict with each by itself."
            )

    def _preprocess(self, image: np.ndarray, geometry: Geometry, name: str | None = None) -> tuple[Any, Any]:
        return image, (geometry, name)  # each part does it its own way

    def _segment(self, data: Any, properties: Any, **options: Any) -> Export:
        keep: Sequence[str] = options.get("keep", ())
        labels: Collection[str] | None = options.get("labels")
        voxels, classes = int(np.prod(data.shape[1:])), self.plan.num_classes
        require_memory(
            voxels * (2 * classes * (len(self.parts) + bool(keep)) + 1),
            f"The probabilities of {classes} classes of {len(self.parts)} configurations do not fit into memory",
        )
        made: list[Export] = []
        for part in self.parts:
            part.step = self.step
            made.append(part._segment(*part._preprocess(data, *properties), keep=("probabilities",)))
        decision = Decision.of(self.plan, labels)
        label, mean = average([one.kept["probabilities"] for one in made], decision, keep=bool(keep))
        first = made[0]
        first.label = label.astype(first.label.dtype)
        first.kept = {"probabilities": mean} if mean is not None else {}
        return first


def average(
    probabilities: Sequence[np.ndarray], decision: Decision, *, keep: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """The label of each voxel by its mean probabilities: of the largest, or of regions of the last one above 0.5.

    Args:
        probabilities: (K, Z, Y, X) float16 each.
        decision: How a voxel's label follows from its probabilities: of classes or of regions.
        keep: Return the means too.

    Returns:
        (Z, Y, X) int16 label map; and the means, float16, or None.

    Raises:
        DatasetError: They are of different shapes.
    """
    shapes = {array.shape for array in probabilities}
    if len(shapes) > 1:
        raise DatasetError(f"Probabilities of one case have the shapes {sorted(shapes)}: they are of different images.")
    classes, *shape = probabilities[0].shape
    label = np.empty(shape, np.int16)
    means = np.empty((classes, *shape), np.float16) if keep else None
    for z in range(shape[0]):  # plane by plane: float32 of all would be twice the memory
        mean = np.zeros((classes, *shape[1:]), np.float32)
        for array in probabilities:
            mean += array[:, z]
        mean /= len(probabilities)
        # Decisions are made of logits, which are 0 where the probability of a region is 0.5.
        scores = torch.from_numpy(mean - 0.5 if decision.pick is last_above_zero else mean)
        label[z] = decision.label_of(decision.pick(decision.among(scores)).numpy())
        if means is not None:
            means[:, z] = mean
    return label, means


def predictor_of(
    path: Path,
    *,
    device: str | torch.device = "auto",
    mirror: bool = False,
    trusted: str | Sequence[str] = (),
    postprocessing: bool = True,
    previous_stage: object = None,
) -> Predictor:
    """Load what an ensemble.json names.

    Args:
        path: The ensemble.json, see `umamba.inference.ensemble`.
        device: "auto" takes the first GPU, else the CPU.
        mirror: Average over the flips of the axes that the trainings mirrored.
        trusted: Code of your own that the checkpoints may have built, see `umamba.targets`.
        postprocessing: Whether to apply the rules that the file holds.
        previous_stage: As of `Predictor.from_checkpoint`, for those of its checkpoints that are of a cascade.

    Raises:
        FileNotFoundError, ValueError: See `read_ensemble`, `Ensemble.check_unchanged` and `Predictor.from_checkpoint`;
            or the rules do not fit the labels.
    """
    ensemble = read_ensemble(path)
    ensemble.check_unchanged()
    places = _places_of(ensemble, previous_stage)
    parts = [
        Predictor.from_checkpoint(group.checkpoints, device, mirror, trusted, place)
        for group, place in zip(ensemble.groups, places, strict=True)
    ]
    predictor = parts[0] if len(parts) == 1 else AveragedPredictor(parts)
    if mirror != ensemble.mirror:
        log.warning(
            "%s was scored, and its rules decided, with mirror=%s; this prediction is made with mirror=%s.",
            path, str(ensemble.mirror).lower(), str(mirror).lower(),
        )  # fmt: skip
    if postprocessing:
        predictor.rules = ensemble.rules(predictor.plan.foreground)
    _say(ensemble, parts, predictor)
    return predictor


def _places_of(ensemble: Ensemble, previous_stage: object) -> list[object]:
    """For each group where its previous stage lies, which those of no cascade have not."""
    if previous_stage is None or len(ensemble.groups) == 1:
        return [previous_stage] * len(ensemble.groups)
    cascaded = [PREVIOUS in load_plain(group.checkpoints[0]) for group in ensemble.groups]
    if not any(cascaded):
        raise ValueError(
            f"previous_stage={previous_stage} would do nothing: {ensemble.path} has no cascade. Leave it out."
        )
    return [previous_stage if one else None for one in cascaded]


def _say(ensemble: Ensemble, parts: Sequence[Predictor], predictor: Predictor) -> None:
    named = zip(ensemble.groups, parts, strict=True)
    groups = " and ".join(
        f"{len(group.checkpoints)} of {group.name} ({part.configuration.name})" for group, part in named
    )
    rules = "; ".join(", ".join(rule.classes) for rule in predictor.rules)
    log.info(
        "%s: checkpoints %s%s.", ensemble.path, groups, f"; the largest component is kept of {rules}" * bool(rules)
    )
