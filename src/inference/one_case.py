"""One image at a time: preprocess it, predict it by sliding window, and export a label map on its own grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from umamba.inference.decision import values_left
from umamba.inference.devices import place_for
from umamba.inference.doubts import strange_values, turned
from umamba.inference.export import Export
from umamba.inference.images import Image, as_case, like
from umamba.inference.members import Member
from umamba.inference.precision import chosen_dtype
from umamba.inference.preprocess import preprocess_on
from umamba.inference.rules import Rule, apply_rules
from umamba.inference.seen import TrainingCases
from umamba.inference.sliding_window import STEP, ensemble, sliding_window, sum_bytes
from umamba.machine import require_memory
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties
from umamba.raw.checks import note_doubt, read_sound_images
from umamba.raw.description import DatasetError
from umamba.raw.orientation import orientation, orientation_of
from umamba.raw.readers import Geometry

log = logging.getLogger(__name__)

_PATCH_VOXELS = 1 << 21  # of the windows that go through a network together, unless one alone has more


class Preceding(Protocol):
    """The previous stage of a cascade, see `umamba.inference.previous_stage.PreviousStage`."""

    out_of_fold: bool

    def channels(
        self, image: np.ndarray, geometry: Geometry, onto: CaseProperties, name: str | None, step: float
    ) -> np.ndarray:
        """What it segments in an image, one-hot (K, Z, Y, X) float32 on the grid of `onto`."""
        raise NotImplementedError

    def made_by(self) -> dict[str, Any]:
        """What tells its segmentations from those of others, as plain data."""
        raise NotImplementedError

    def run_in(self, precision: str) -> None:
        """Compute its networks in a precision, see `CasePredictor.run_in`."""
        raise NotImplementedError

    def only_unseen(self, names: Sequence[str]) -> None:
        """Segment each case by networks that did not see it; raises ValueError if there is none for one of these."""
        raise NotImplementedError


class CasePredictor:
    """Networks and the plan that they were trained with, applied to one image at a time.

    Args:
        members: One or more networks; several are averaged as logits.
        plan, configuration: How images are preprocessed; ``configuration`` is a name in the plan.
        config: The resolved configuration the (first) checkpoint was trained with, for callers.
        device: Where the networks run.

    Attributes:
        rules: Rules of post-processing, applied to each label map in this order; none unless they are set.
        orientations: Of the training's images, see `umamba.raw.orientation`; none where it is not known.
        training_cases: Of the networks, as far as they are known.
        step: Largest distance between windows, as a share of the patch; 0.5 as in nnU-Net unless it is set.
        previous: The previous stage of a cascade, whose segmentation the networks see beside the image; None of others.
    """

    def __init__(
        self, members: Sequence[Member], plan: Plan, configuration: str, config: dict[str, Any], device: torch.device
    ) -> None:
        self.device = device
        self.members = list(members)
        self.networks = [member.network.to(device) for member in self.members]
        self.plan, self.configuration = plan, plan.configuration(configuration)
        self.patch_size = self.configuration.patch_size
        self.window_batch = max(1, min(self.configuration.batch_size, _PATCH_VOXELS // math.prod(self.patch_size)))
        self.config = config
        self.rules: list[Rule] = []
        self.orientations: frozenset[str] = frozenset()
        self.training_cases = TrainingCases()
        self.step = STEP
        self.previous: Preceding | None = None

    def segment(
        self, image: Image, spacing: Sequence[float] | None = None, *, probabilities: bool = False
    ) -> Image | tuple[Image, Image]:
        """Segment an image in memory.

        Args:
            image: NumPy array or torch tensor, (Z, Y, X), (Y, X) or with channels first; or SimpleITK image(s).
            spacing: Voxel size in mm, in the order of the array's axes; None for SimpleITK.
            probabilities: Also return them.

        Returns:
            The label map on the image's own grid, of the image's kind; and the probabilities, (K, ...) float16, of a
            SimpleITK image one of K float32 values a voxel.

        Raises:
            TypeError, ValueError: See `as_case`; or the number of channels is not the plan's.
            FloatingPointError, MemoryError: See `predict`.
        """
        array, geometry = as_case(image, spacing)
        if geometry.dimension == 2 and self.needs_volumes:
            raise ValueError(f"The image is 2D; the network was trained in 3D ({self.configuration.name}).")
        arrays_alone = isinstance(image, (np.ndarray, torch.Tensor))  # say nothing of how they lie in space
        for message in self._doubts(array, None if arrays_alone else orientation_of(geometry), ["The image"]).values():
            log.warning("%s", message)
        data, properties = self._preprocess(array, geometry)
        del array
        done = self._segment(data, properties, keep=("probabilities",) if probabilities else ())
        label = like(image, self._postprocessed(done.label), geometry)
        return (label, like(image, done.kept["probabilities"], geometry)) if probabilities else label

    def predict(self, images: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        """Segment one case.

        Args:
            images: One file per channel, in the plan's channel order.

        Returns:
            (Z, Y, X) label map on the grid of the images, and that grid.

        Raises:
            DatasetError: A file cannot be read, is cut off or holds NaN, or the number of channels is not the plan's.
            FloatingPointError: The network's logits are not finite.
            MemoryError: The case does not fit into memory.
        """
        done = self._segment(*self._preprocess(*self._read(images)))
        return self._postprocessed(done.label), done.geometry

    def run_in(self, precision: str) -> None:
        """Compute the networks, those of a previous stage too, in another precision than that of their trainings.

        Args:
            precision: A name of `umamba.inference.precision.CHOICES`. Sums of logits are float32 in any.

        Raises:
            ValueError: See `chosen_dtype`.
        """
        dtype = chosen_dtype(precision, self.device)
        self.members = [replace(member, autocast=dtype) for member in self.members]
        if self.previous is not None:
            self.previous.run_in(precision)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, C, *patch) of what a network sees."""
        return (1, self.plan.num_inputs(self.configuration.name), *self.patch_size)

    @property
    def needs_volumes(self) -> bool:
        """Whether a 2D image is none that it can segment."""
        return self.configuration.spatial_dims == 3

    def _read(self, images: Sequence[Path], doubts: dict[str, str] | None = None) -> tuple[np.ndarray, Geometry]:
        image, geometry = read_sound_images(images, self.plan.channel_names, doubts)
        for kind, message in self._doubts(image, orientation(images[0], geometry), images).items():
            note_doubt(doubts, kind, message)
        if geometry.dimension == 2 and self.needs_volumes:
            raise DatasetError(
                f"{images[0]} is a 2D image; the network was trained in 3D ({self.configuration.name}). Give it "
                "volumes, or predict with a network of configuration 2d."
            )
        return image, geometry

    def _doubts(self, image: np.ndarray, orientation: str | None, what: Sequence[Path | str]) -> dict[str, str]:
        """Kind -> what is odd about an image, see `umamba.raw.checks.log_doubts`."""
        found = {
            "orientation": turned(orientation, self.orientations, what[0]),
            "values": strange_values(image, self.plan, self.configuration, what),
        }
        return {kind: message for kind, message in found.items() if message}

    def _postprocessed(self, label: np.ndarray, labels: Collection[str] | None = None) -> np.ndarray:
        """A label map after the rules, which see all classes; then of `labels` alone, if they are given."""
        label = apply_rules(label, self.rules)
        return label if labels is None else values_left(self.plan, labels)[label]

    def _preprocess(
        self, image: np.ndarray, geometry: Geometry, name: str | None = None
    ) -> tuple[Tensor, CaseProperties]:
        """What the networks see of an image, (C, Z, Y, X), and the way back; a previous stage may go by its name."""
        data, properties = self._preprocessed(image, geometry)
        if self.previous is not None:
            channels = self.previous.channels(image, geometry, properties, name, self.step)
            data = torch.cat([data, torch.from_numpy(channels).to(data.device)])
        return data, properties

    def _preprocessed(self, image: np.ndarray, geometry: Geometry) -> tuple[Tensor, CaseProperties]:
        try:
            return preprocess_on(self.device, image, geometry, self.plan, self.configuration)
        except torch.OutOfMemoryError:
            log.warning("%s has too little memory left to preprocess an image: doing it on the CPU.", self.device)
        torch.cuda.empty_cache()
        return preprocess_on(torch.device("cpu"), image, geometry, self.plan, self.configuration)

    def _segment(self, data: Tensor, properties: CaseProperties, **options: Any) -> Export:
        """Preprocessed image -> its label map; where the device has too little memory, logits are summed on the CPU."""
        place = place_for(self._sum_bytes(data) + data.nbytes, self.device)
        try:
            return self._export(data.to(place), properties, **options)
        except torch.OutOfMemoryError:
            if place.type == "cpu":
                raise
        log.warning("%s ran out of memory: again, with the sums of logits in main memory.", place)
        torch.cuda.empty_cache()
        return self._export(data.cpu(), properties, **options)

    def _export(
        self, data: Tensor, properties: CaseProperties, keep: Sequence[str] = (), labels: Collection[str] | None = None
    ) -> Export:
        """Predict a preprocessed image; the sums of logits are held where it is."""
        classes, voxels = self.plan.num_classes, math.prod(properties.shape_before_crop)
        held = self._sum_bytes(data) if data.device.type == "cpu" else 0
        require_memory(
            held + voxels * (1 + 2 * classes * len(keep)),
            f"{classes} classes at {' x '.join(map(str, data.shape[1:]))} voxels, as the image is after resampling to "
            f"{self.configuration.spacing} mm, do not fit into memory: crop the image, correct its spacing if that is "
            "wrong, or predict where there is more",
        )
        export = Export(properties, self.plan, self.configuration, device=data.device, keep=keep, labels=labels)
        for planes in self._logits(data):
            export.add(planes)
        return export

    def _sum_bytes(self, data: Tensor) -> int:
        return sum_bytes(data.shape[1:], self.patch_size, self.plan.num_classes, self.step, self.window_batch)

    def _logits(self, data: Tensor) -> Iterator[Tensor]:
        """(C, Z, Y, X) preprocessed image -> mean logits of the networks, plane by plane."""
        return sliding_window(
            ensemble(self.members),
            data,
            self.patch_size,
            self.plan.num_classes,
            device=self.device,
            step=self.step,
            window_batch=self.window_batch,
        )
