"""From image files to label maps in their own geometry, with one checkpoint or an ensemble of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from src.files import write_json
from src.inference.checkpoint import load_checkpoint, network_from_checkpoint
from src.inference.sliding_window import predict_sliding_window
from src.planning.plan import Plan
from src.planning.preprocess import PreprocessedCase, invert_logits, preprocess_case
from src.planning.raw import PICTURE_ENDINGS, DatasetError, RawCase
from src.planning.readers import Geometry, read_images, write_label

log = logging.getLogger(__name__)

MAX_PENDING_EXPORTS = 2  # each holds one case's logits in memory


class Predictor:
    """Preprocess, predict by sliding window, export.

    Args:
        networks: one or more networks in eval mode, deep supervision off; several are averaged as logits.
        plan, configuration: how images are preprocessed; ``configuration`` is a name in the plan.
        config: the resolved configuration the (first) checkpoint was trained with, for callers.
        device: "auto" takes the first GPU, else the CPU. On a GPU the convolutions run in bfloat16 unless the
            model's config asks for float32.
        mirror: average over mirrored inputs.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        plan: Plan,
        configuration: str,
        config: dict[str, Any],
        device: str | torch.device = "auto",
        mirror: bool = False,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.networks = [network.to(self.device) for network in networks]
        self.plan, self.configuration = plan, plan.configuration(configuration)
        self.patch_size = self.configuration.patch_size
        self.config, self.mirror = config, mirror
        precision = config["model"].get("precision") or "bf16-mixed"
        self.autocast = self.device.type == "cuda" and precision.startswith("bf16")

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | Sequence[str | Path], device: str | torch.device = "auto", mirror: bool = False
    ) -> Predictor:
        """Load one checkpoint, or several whose logits are averaged.

        Raises:
            FileNotFoundError, ValueError: see `load_checkpoint`.
            ValueError: the checkpoints of an ensemble were trained with different plans or configurations.
        """
        paths = [path] if isinstance(path, (str, Path)) else list(path)
        checkpoints = [load_checkpoint(one) for one in paths]
        loaded = [network_from_checkpoint(checkpoint) for checkpoint in checkpoints]
        plan, name = loaded[0][1], checkpoints[0]["configuration"]
        for one, checkpoint, (_, other) in zip(paths, checkpoints, loaded, strict=True):
            if (other.hash(), checkpoint["configuration"]) != (plan.hash(), name):
                raise ValueError(
                    f"{one} was trained with another plan or configuration ({checkpoint['configuration']}, plan "
                    f"{other.hash()}) than {paths[0]} ({name}, plan {plan.hash()}); their logits cannot be averaged."
                )
        return cls([network for network, _ in loaded], plan, name, checkpoints[0]["config"], device, mirror)

    def predict(self, images: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        """Segment one case.

        Args:
            images: one file per channel, in the plan's channel order.

        Returns:
            (Z, Y, X) label map on the grid of the images, and that grid.

        Raises:
            DatasetError: a file cannot be read, or the number of channels is not the plan's.
        """
        case, geometry = self._preprocess(images)
        return self._export(self._logits(case.data), case), geometry

    def predict_cases(self, cases: Sequence[RawCase], output_dir: Path) -> list[Path]:
        """Segment cases and write ``<output_dir>/<identifier><file ending of the data set>``.

        Reading and exporting overlap with the network. Seconds per case go to ``inference.json`` beside the folder.
        """
        output_dir.mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        seconds: dict[str, float] = {}
        pending: deque[Future[None]] = deque()
        with (
            Progress(transient=True) as progress,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
        ):
            task = progress.add_task("Predicting", total=len(cases))
            upcoming = reader.submit(self._preprocess, cases[0].images) if cases else None
            for index, raw in enumerate(cases):
                started = time.perf_counter()
                case, geometry = upcoming.result()
                if index + 1 < len(cases):
                    upcoming = reader.submit(self._preprocess, cases[index + 1].images)
                logits = self._logits(case.data)
                path = output_dir / f"{raw.identifier}{self.plan.file_ending}"
                while len(pending) >= MAX_PENDING_EXPORTS:
                    pending.popleft().result()
                pending.append(writer.submit(self._write, logits, case, geometry, path))
                written.append(path)
                seconds[raw.identifier] = time.perf_counter() - started
                progress.advance(task)
            for future in pending:
                future.result()
        self._save_costs(output_dir.parent / "inference.json", seconds)
        return written

    def _preprocess(self, images: Sequence[Path]) -> tuple[PreprocessedCase, Geometry]:
        image, geometry = read_images(images)
        expected = self.plan.channel_names
        if image.shape[0] != len(expected):
            raise DatasetError(
                f"{images[0]}: the network was trained on {len(expected)} channel(s) ({', '.join(expected)}), "
                f"this case has {image.shape[0]}. Give one file per channel, NAME_0000 to NAME_{len(expected) - 1:04d}."
            )
        return preprocess_case(image, geometry, None, self.plan, self.configuration), geometry

    @torch.inference_mode()
    def _logits(self, data: np.ndarray) -> Tensor:
        """(C, Z, Y, X) preprocessed image -> (K, Z, Y, X) mean logits of the networks, on the CPU."""
        image = torch.from_numpy(np.ascontiguousarray(data))
        total: Tensor | None = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            for network in self.networks:
                logits = predict_sliding_window(
                    network,
                    image,
                    self.patch_size,
                    self.plan.num_classes,
                    device=self.device,
                    mirror=self.mirror,
                    window_batch=self.configuration.batch_size if self.configuration.spatial_dims == 2 else 1,
                ).cpu()
                total = logits if total is None else total + logits
        return total / len(self.networks)

    def _export(self, logits: Tensor, case: PreprocessedCase) -> np.ndarray:
        return invert_logits(logits.numpy(), case.properties, self.plan, self.configuration)

    def _write(self, logits: Tensor, case: PreprocessedCase, geometry: Geometry, path: Path) -> None:
        write_label(self._export(logits, case), path, geometry)

    def _save_costs(self, path: Path, seconds: dict[str, float]) -> None:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None
        write_json({"device": device, "peak_vram_gib": peak, "seconds": seconds}, path)


def cases_in_folder(folder: Path, file_ending: str, num_channels: int) -> list[RawCase]:
    """Group the images of a plain folder into cases, by nnU-Net's ``NAME_0000`` suffixes where they are used.

    Raises:
        FileNotFoundError: the folder is missing or holds no file with this ending.
        DatasetError: a case lacks channels.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder} to read images from.")
    files = sorted(p for p in folder.iterdir() if p.name.endswith(file_ending) and not p.name.startswith("."))
    if not files:
        found = sorted({"".join(p.suffixes[-2:]) for p in folder.iterdir() if p.is_file()})
        raise FileNotFoundError(f"{folder} holds no *{file_ending} file; it holds: {', '.join(found) or 'nothing'}.")
    groups: dict[str, list[Path]] = {}
    for path in files:
        name = path.name.removesuffix(file_ending)
        stem, _, suffix = name.rpartition("_")
        numbered = len(suffix) == 4 and suffix.isdigit() and stem
        groups.setdefault(stem if numbered else name, []).append(path)
    for name, images in groups.items():
        if len(images) != num_channels and not (file_ending in PICTURE_ENDINGS and len(images) == 1):
            raise DatasetError(
                f"{folder}: case {name} has {len(images)} file(s), the network needs {num_channels} channels: "
                f"{name}_0000{file_ending} to {name}_{num_channels - 1:04d}{file_ending}."
            )
    return [RawCase(identifier=name, images=tuple(images), label=None) for name, images in groups.items()]
