"""From image files to label maps in their own geometry, with one checkpoint or an ensemble of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from umamba.files import write_json
from umamba.inference.devices import choose_device, place_for
from umamba.inference.export import Export
from umamba.inference.folders import check_not_an_input
from umamba.inference.mirroring import axes_to_mirror
from umamba.inference.pipeline import CasesFailedError, WriteBehind, noted, read_ahead, threads
from umamba.inference.precision import autocast_dtype, trained_precision
from umamba.inference.preprocess import preprocess_on
from umamba.inference.sliding_window import ensemble, mirrored, sliding_window, sum_bytes
from umamba.machine import require_memory
from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties
from umamba.raw.checks import read_sound_images
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetError
from umamba.raw.readers import Geometry, write_label

log = logging.getLogger(__name__)

_PATCH_VOXELS = 1 << 21  # of the windows that go through a network together, unless one alone has more


@dataclass(frozen=True)
class Member:
    """A network of an ensemble, and how its training says that it predicts.

    Attributes:
        network: In eval mode, deep supervision off.
        autocast: Of its convolutions, None for float32.
        mirror_axes: Axes of the patch over whose flips its logits are averaged; none for no mirroring.
    """

    network: nn.Module
    autocast: torch.dtype | None = None
    mirror_axes: tuple[int, ...] = ()

    def __call__(self, patches: Tensor) -> Tensor:
        """(B, C, *patch) -> logits (B, K, *patch)."""
        with torch.autocast(patches.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return mirrored(self.network, self.mirror_axes)(patches)


class Predictor:
    """Preprocess, predict by sliding window, export.

    Args:
        members: One or more networks; several are averaged as logits.
        plan, configuration: How images are preprocessed; ``configuration`` is a name in the plan.
        config: The resolved configuration the (first) checkpoint was trained with, for callers.
        device: Where the networks run.
    """

    def __init__(
        self,
        members: Sequence[Member],
        plan: Plan,
        configuration: str,
        config: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.device = device
        self.members = list(members)
        self.networks = [member.network.to(device) for member in self.members]
        self.plan, self.configuration = plan, plan.configuration(configuration)
        self.patch_size = self.configuration.patch_size
        self.window_batch = max(1, min(self.configuration.batch_size, _PATCH_VOXELS // math.prod(self.patch_size)))
        self.config = config

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str | torch.device = "auto",
        mirror: bool = False,
        trusted: str | Sequence[str] = (),
    ) -> Predictor:
        """Load one checkpoint, or several whose logits are averaged.

        Each network predicts in the precision that it was trained in (in float32 on a CPU), see `autocast_dtype`.

        Args:
            path: The checkpoint's, or several.
            device: "auto" takes the first GPU, else the CPU.
            mirror: Average over the flips of the axes that the training mirrored.
            trusted: As for `load_checkpoint`.

        Raises:
            FileNotFoundError, ValueError: See `load_checkpoint`.
            ValueError: There is no checkpoint, or no such device; the checkpoints of an ensemble were trained with
                different plans or configurations; one holds weights that are not finite, or was trained without
                mirroring and ``mirror`` is set.
        """
        device = choose_device(device)
        paths = [path] if isinstance(path, (str, Path)) else list(path)
        if not paths:
            raise ValueError("There is no checkpoint to predict with: checkpoint=[] is an empty list.")
        checkpoints = [load_checkpoint(one, trusted) for one in paths]
        loaded = [network_from_checkpoint(checkpoint) for checkpoint in checkpoints]
        plan, name = loaded[0][1], checkpoints[0]["configuration"]
        members = []
        for one, checkpoint, (network, other) in zip(paths, checkpoints, loaded, strict=True):
            if (other.hash(), checkpoint["configuration"]) != (plan.hash(), name):
                raise ValueError(
                    f"{one} was trained with another plan or configuration ({checkpoint['configuration']}, plan "
                    f"{other.hash()}) than {paths[0]} ({name}, plan {plan.hash()}); their logits cannot be averaged."
                )
            _check_weights(network, one)
            dims = plan.configuration(name).spatial_dims
            axes = axes_to_mirror(checkpoint["config"], dims, one) if mirror else ()
            autocast = autocast_dtype(trained_precision(checkpoint["config"]), device)
            members.append(Member(network, autocast, axes))
        return cls(members, plan, name, checkpoints[0]["config"], device)

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
        data, properties = self._preprocess(*self._read(images))
        return self._segment(data, properties).label, properties.geometry

    def outputs(self, cases: Sequence[RawCase], output_dir: Path) -> dict[str, Path]:
        """Case -> the label map that `predict_cases` writes.

        Raises:
            ValueError: It would replace one of the images.
        """
        paths = {case.identifier: output_dir / f"{case.identifier}{self.plan.file_ending}" for case in cases}
        check_not_an_input(cases, paths)
        return paths

    def predict_cases(self, cases: Sequence[RawCase], output_dir: Path) -> list[Path]:
        """Segment cases and write ``<output_dir>/<identifier><file ending of the data set>``.

        Files are read ahead of the network and written behind it. Seconds per case go to ``inference.json`` in the
        folder.

        Raises:
            CasesFailedError: Some cases have files that cannot be used, logits that are not finite or too large for the
                memory; raised when the others are written.
            ValueError: A label map would replace one of the images.
            OSError: The disk is full.
        """
        paths = self.outputs(cases, output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        failures: dict[str, str] = {}
        seconds: dict[str, float] = {}
        with Progress(transient=True) as progress, threads() as readers, threads() as writers:
            task = progress.add_task("Predicting", total=len(cases))
            written = WriteBehind(writers)
            for case, reading in read_ahead(cases, lambda case: self._read(case.images), readers):
                name, started = case.identifier, time.perf_counter()
                with noted(failures, name):
                    data, properties = self._preprocess(*reading.result())
                    del reading  # and with it the image as read
                    label = self._segment(data, properties).label
                    write = partial(_write, label, paths[name], properties.geometry, name, failures)
                    written.add(write, label.nbytes)
                    del data, label, write  # the writer alone holds the label map, while it needs it
                    seconds[name] = time.perf_counter() - started
                progress.advance(task)
            written.finish()
        self._save_costs(output_dir / "inference.json", seconds, failures)
        done = [path for name, path in paths.items() if name not in failures]
        if failures:
            raise CasesFailedError(failures, done, [paths[name] for name in failures if paths[name].exists()])
        return done

    def _read(self, images: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        image, geometry = read_sound_images(images, self.plan.channel_names)
        if geometry.dimension == 2 and self.configuration.spatial_dims == 3:
            raise DatasetError(
                f"{images[0]} is a 2D image; the network was trained in 3D ({self.configuration.name}). Give it "
                "volumes, or predict with a network of configuration 2d."
            )
        return image, geometry

    def _preprocess(self, image: np.ndarray, geometry: Geometry) -> tuple[Tensor, CaseProperties]:
        try:
            return preprocess_on(self.device, image, geometry, self.plan, self.configuration)
        except torch.OutOfMemoryError:
            log.warning("%s has too little memory left to preprocess an image: doing it on the CPU.", self.device)
        torch.cuda.empty_cache()
        return preprocess_on(torch.device("cpu"), image, geometry, self.plan, self.configuration)

    def _segment(self, data: Tensor, properties: CaseProperties, *, probabilities: bool = False) -> Export:
        """Preprocessed image -> its label map; where the device has too little memory, logits are summed on the CPU."""
        place = place_for(self._sum_bytes(data) + data.nbytes, self.device)
        try:
            return self._export(data.to(place), properties, probabilities=probabilities)
        except torch.OutOfMemoryError:
            if place.type == "cpu":
                raise
        log.warning("%s ran out of memory: again, with the sums of logits in main memory.", place)
        torch.cuda.empty_cache()
        return self._export(data.cpu(), properties, probabilities=probabilities)

    def _export(self, data: Tensor, properties: CaseProperties, *, probabilities: bool) -> Export:
        """Predict a preprocessed image; the sums of logits are held where it is."""
        classes, voxels = self.plan.num_classes, math.prod(properties.shape_before_crop)
        held = self._sum_bytes(data) if data.device.type == "cpu" else 0
        require_memory(
            held + voxels * (1 + 2 * classes * probabilities),
            f"{classes} classes at {' x '.join(map(str, data.shape[1:]))} voxels, as the image is after resampling to "
            f"{self.configuration.spacing} mm, do not fit into memory: crop the image, correct its spacing if that is "
            "wrong, or predict where there is more",
        )
        export = Export(properties, self.plan, self.configuration, device=data.device, probabilities=probabilities)
        for planes in self._logits(data):
            export.add(planes)
        return export

    def _sum_bytes(self, data: Tensor) -> int:
        return sum_bytes(data.shape[1:], self.patch_size, self.plan.num_classes, window_batch=self.window_batch)

    def _logits(self, data: Tensor) -> Iterator[Tensor]:
        """(C, Z, Y, X) preprocessed image -> mean logits of the networks, plane by plane."""
        return sliding_window(
            ensemble(self.members),
            data,
            self.patch_size,
            self.plan.num_classes,
            device=self.device,
            window_batch=self.window_batch,
        )

    def _save_costs(self, path: Path, seconds: dict[str, float], failures: dict[str, str]) -> None:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None
        write_json({"device": device, "peak_vram_gib": peak, "seconds": seconds, "failed": failures}, path)


def _write(label: np.ndarray, path: Path, geometry: Geometry, name: str, failures: dict[str, str]) -> None:
    with noted(failures, name):
        write_label(label, path, geometry)


def _check_weights(network: nn.Module, path: str | Path) -> None:
    bad = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            f"{path} holds NaN or infinite weights ({bad[0]}{more}): its training diverged, or the file is damaged. "
            "Take an earlier checkpoint, such as best.ckpt."
        )
