"""From checkpoints and folders of images to label maps: one network or an ensemble, many cases in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from umamba.inference.devices import choose_device
from umamba.inference.many_cases import FilesPredictor
from umamba.inference.members import check_named_once, members_of
from umamba.inference.model_folder import read_model_folder
from umamba.inference.previous_checkpoints import load_previous
from umamba.inference.seen import TrainingCases
from umamba.models.checkpoint import load_checkpoint


class Predictor(FilesPredictor):
    """Networks from checkpoints, applied to images in memory, to files and to whole folders of them.

    `from_checkpoint` and `from_model_folder` make one; the constructor is that of `CasePredictor`.
    """

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str | torch.device = "auto",
        mirror: bool = False,
        trusted: str | Sequence[str] = (),
        previous_stage: object = None,
    ) -> Predictor:
        """Load one checkpoint, or several whose logits are averaged; of a cascade's second stage the first one too.

        Each network predicts in the precision that it was trained in (in float32 on a CPU), see `autocast_dtype`.

        Args:
            path: The checkpoint's file, or several files.
            device: "auto" takes the first GPU, else the CPU.
            mirror: Average over the flips of the axes that the training mirrored.
            trusted: Code of your own that the checkpoint may have built, see `umamba.targets`.
            previous_stage: Where the first stage of a cascade lies, if not where it was; see `load_previous`.

        Raises:
            FileNotFoundError, ValueError: See `load_checkpoint` and `load_previous`.
            ValueError: There is no checkpoint, one is named twice, or no such device; the checkpoints of an ensemble
                were trained with different plans or configurations; one holds weights that are not finite, or was
                trained without mirroring and ``mirror`` is set.
        """
        paths = [path] if isinstance(path, (str, Path)) else list(path)
        if not paths:
            raise ValueError("There is no checkpoint to predict with: checkpoint=[] is an empty list.")
        check_named_once(paths)
        device = choose_device(device)
        loaded = [(one, load_checkpoint(one, trusted)) for one in paths]
        predictor = cls.of_contents(loaded, device, mirror)
        if predictor.configuration.previous_stage is not None:
            predictor.previous = load_previous(
                loaded, predictor.plan, previous_stage, device, mirror=mirror, trusted=trusted
            )
        elif previous_stage is not None:
            raise ValueError(
                f"previous_stage={previous_stage} would do nothing: {paths[0]} was trained as "
                f"{predictor.configuration.name}, which sees the image alone. Leave it out."
            )
        return predictor

    @classmethod
    def from_model_folder(
        cls,
        folder: str | Path,
        folds: Sequence[int | str] | None = None,
        *,
        checkpoint: str = "checkpoint_final.pth",
        device: str | torch.device = "auto",
        mirror: bool = False,
    ) -> Predictor:
        """Load a training's folder of nnU-Net or U-Mamba, without a conversion; its folds' logits are averaged.

        Args:
            folder: Holds fold_0, fold_1, ... beside plans.json and dataset.json.
            folds: Their numbers, or "all"; None takes every numbered fold that has the checkpoint, else fold_all.
            checkpoint: Name of the file in each fold's folder.
            device: "auto" takes the first GPU, else the CPU.
            mirror: Average over the flips of the axes that the training mirrored.

        Raises:
            FileNotFoundError, ValueError: See `read_model_folder` and `from_checkpoint`.
        """
        device = choose_device(device)
        predictor = cls.of_contents(list(read_model_folder(folder, folds, checkpoint).items()), device, mirror)
        if predictor.configuration.previous_stage is not None:
            raise ValueError(
                f"{folder} is the second stage of a cascade, {predictor.configuration.name}, which predicts with "
                f"networks of {predictor.configuration.previous_stage} in another folder. Import both "
                "(python -m umamba.models.import_weights) and predict with checkpoint=... and previous_stage=..."
            )
        return predictor

    @classmethod
    def of_contents(
        cls, checkpoints: Sequence[tuple[str | Path, Mapping[str, Any]]], device: torch.device, mirror: bool
    ) -> Predictor:
        """Make one of checkpoints that are in memory: files and their contents, see `from_checkpoint`."""
        members, plan, name = members_of(checkpoints, device, mirror)
        predictor = cls(members, plan, name, checkpoints[0][1]["config"], device)
        known: list[Any] = [(content.get("cases") or {}).get("orientations") for _, content in checkpoints]
        if all(isinstance(one, list) for one in known):  # earlier ones do not keep them
            predictor.orientations = frozenset(str(name) for one in known for name in one)
        predictor.training_cases = TrainingCases.of(checkpoints)
        return predictor
