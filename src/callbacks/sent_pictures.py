"""Pictures of a training for those loggers that show any: W&B and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger


@dataclass(frozen=True)
class Masked:
    """A picture and what lies over it.

    Attributes:
        picture: (Y, X, 3) in [0, 1].
        masks: what a layer is called, such as "reference" -> label map (Y, X).
        caption: below it.
    """

    picture: np.ndarray
    masks: Mapping[str, np.ndarray]
    caption: str


def shown_classes(module: Any) -> dict[int, str]:
    """Label value, which gives the colour, -> name of a class; of a region the value that is written for it."""
    regions = {region.written: region.name for region in module.plan.regions}
    return regions or dict(enumerate(module.class_names, start=1))


def send_picture(loggers: Sequence[Logger], name: str, path: Path, step: int) -> None:
    """Send a PNG as it is."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step)
    _to_tensorboard(loggers, name, path, step)


def send_masked(
    loggers: Sequence[Logger], name: str, path: Path, step: int, pictures: Sequence[Masked], classes: Mapping[int, str]
) -> None:
    """Send pictures with their masks, which W&B shows and hides by class; TensorBoard gets them as drawn."""
    masks = [
        {
            layer: {"mask_data": mask.astype(np.uint8), "class_labels": dict(classes)}
            for layer, mask in entry.masks.items()
        }
        for entry in pictures
    ]
    images = [(255 * entry.picture).astype(np.uint8) for entry in pictures]
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, images, step, caption=[entry.caption for entry in pictures], masks=masks)
    _to_tensorboard(loggers, name, path, step)


def _to_tensorboard(loggers: Sequence[Logger], name: str, path: Path, step: int) -> None:
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, imageio.imread(path)[..., :3], step, dataformats="HWC")
