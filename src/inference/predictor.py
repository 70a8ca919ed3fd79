"""From image files to label maps in their own geometry, with one checkpoint or an ensemble of them."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from umamba.files import write_json
from umamba.inference.folders import check_not_an_input
from umamba.inference.mirroring import axes_to_mirror
from umamba.inference.precision import autocast_dtype, trained_precision
from umamba.inference.sliding_window import accumulator_bytes, ensemble, mirrored, predict_sliding_window
from umamba.machine import free_memory, require_memory
from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties, PreprocessedCase, invert_logits, preprocess_case
from umamba.raw.checks import read_sound_images
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetError
from umamba.raw.readers import Geometry, write_label

log = logging.getLogger(__name__)

# What is wrong with one case and not with the next one; a full disk is not among them, see `_noted`.
_FAULTS_OF_A_CASE = (DatasetError, FloatingPointError, MemoryError, torch.OutOfMemoryError, OSError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class CasesFailedError(RuntimeError):
    """Some cases could not be predicted; the others were.

    Attributes:
        failures: Name of the case -> what was wrong.
        written: Label maps of the other cases.
    """

    def __init__(self, failures: Mapping[str, str], written: Sequence[Path], stale: Sequence[Path]) -> None:
        self.failures, self.written = dict(failures), list(written)
        lines = [f"  {name}: {reason}" for name, reason in failures.items()]
        lines += [f"  {path} is of an earlier prediction." for path in stale]
        total = len(failures) + len(written)
        super().__init__("\n".join([f"{len(failures)} of {total} case(s) could not be predicted:", *lines]))


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
        self.config = config

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str | torch.device = "auto",
        mirror: bool = False,
        trusted: str | Sequence[str] = (),
    ) -> Predictor:
        """Load one checkpoint, or several whose logits are averaged; `trusted` as for `load_checkpoint`.

        Each network predicts in the precision that it was trained in (in float32 on a CPU), see `autocast_dtype`.

        Args:
            path: Of the checkpoint, or several.
            device: "auto" takes the first GPU, else the CPU.
            mirror: Average over the flips of the axes that the training mirrored.

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
        case = self._preprocess(images)
        return self._export(self._logits(case.data), case.properties), case.properties.geometry

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

        Reading and exporting overlap with the network; at most one case's logits are held beside those that are being
        computed. Seconds per case go to ``inference.json`` in the folder.

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
        with Progress(transient=True) as progress, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            task = progress.add_task("Predicting", total=len(cases))
            export = writer.submit(lambda: None)  # of the case before
            for raw, reading in self._read_ahead(cases, reader):
                name, started = raw.identifier, time.perf_counter()
                with _noted(failures, name):
                    case = reading.result()
                    if self._logit_bytes(case) > free_memory():
                        export.result()
                    logits = self._logits(case.data)
                    export.result()
                    export = writer.submit(self._write, logits, case.properties, paths[name], name, failures)
                    del logits, case, reading  # the writer alone holds them, while it needs them
                    seconds[name] = time.perf_counter() - started
                progress.advance(task)
            export.result()
        self._save_costs(output_dir / "inference.json", seconds, failures)
        written = [path for name, path in paths.items() if name not in failures]
        if failures:
            raise CasesFailedError(failures, written, [paths[name] for name in failures if paths[name].exists()])
        return written

    def _read_ahead(
        self, cases: Sequence[RawCase], reader: ThreadPoolExecutor
    ) -> Iterator[tuple[RawCase, Future[PreprocessedCase]]]:
        """Each case with its preprocessing, which begins one case ahead."""
        waiting = [reader.submit(self._preprocess, case.images) for case in cases[:1]]
        for case, following in zip(cases, [*cases[1:], None], strict=True):
            if following is not None:
                waiting.append(reader.submit(self._preprocess, following.images))
            yield case, waiting.pop(0)

    def _preprocess(self, images: Sequence[Path]) -> PreprocessedCase:
        image, geometry = read_sound_images(images, self.plan.channel_names)
        if geometry.dimension == 2 and self.configuration.spatial_dims == 3:
            raise DatasetError(
                f"{images[0]} is a 2D image; the network was trained in 3D ({self.configuration.name}). Give it "
                "volumes, or predict with a network of configuration 2d."
            )
        return preprocess_case(image, geometry, None, self.plan, self.configuration)

    def _logit_bytes(self, case: PreprocessedCase) -> int:
        return accumulator_bytes(case.data.shape[1:], self.patch_size, self.plan.num_classes)

    @torch.inference_mode()
    def _logits(self, data: np.ndarray) -> Tensor:
        """(C, Z, Y, X) preprocessed image -> (K, Z, Y, X) mean logits of the networks, on the CPU."""
        shape, classes = data.shape[1:], self.plan.num_classes
        size = " x ".join(map(str, shape))
        require_memory(
            accumulator_bytes(shape, self.patch_size, classes),
            f"{classes} classes at {size} voxels, as the image is after resampling to "
            f"{self.configuration.spacing} mm, do not fit into memory: crop the image, correct its spacing if that is "
            "wrong, or predict where there is more",
        )
        return predict_sliding_window(
            ensemble(self.members),
            torch.from_numpy(np.ascontiguousarray(data)),
            self.patch_size,
            classes,
            device=self.device,
            window_batch=self.configuration.batch_size if self.configuration.spatial_dims == 2 else 1,
        ).cpu()

    def _export(self, logits: Tensor, properties: CaseProperties) -> np.ndarray:
        return invert_logits(logits.numpy(), properties, self.plan, self.configuration)

    def _write(
        self, logits: Tensor, properties: CaseProperties, path: Path, name: str, failures: dict[str, str]
    ) -> None:
        with _noted(failures, name):
            write_label(self._export(logits, properties), path, properties.geometry)

    def _save_costs(self, path: Path, seconds: dict[str, float], failures: dict[str, str]) -> None:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None
        write_json({"device": device, "peak_vram_gib": peak, "seconds": seconds, "failed": failures}, path)


@contextmanager
def _noted(failures: dict[str, str], name: str) -> Iterator[None]:
    """Note what is wrong with one case and go on; a full disk, and faults of the program, end the prediction."""
    try:
        yield
    except _FAULTS_OF_A_CASE as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        failures[name] = str(error)
        log.error("Case %s: %s", name, error)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda or cuda:<number>.") from error
    count = torch.cuda.device_count()
    if device.type == "meta" or (device.type == "cuda" and (device.index or 0) >= count):
        raise ValueError(f"device is {str(name)!r}; this machine has the CPU and {count} GPU(s) that torch can use.")
    return device


def _check_weights(network: nn.Module, path: str | Path) -> None:
    bad = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            f"{path} holds NaN or infinite weights ({bad[0]}{more}): its training diverged, or the file is damaged. "
            "Take an earlier checkpoint, such as best.ckpt."
        )
