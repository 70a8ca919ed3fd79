"""preview.png: a few validation patches, always the same ones, with what the network makes of them by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from umamba.callbacks.after_epoch import AfterEpoch
from umamba.callbacks.sent_pictures import Masked, send_masked, shown_classes
from umamba.callbacks.trial import is_trial
from umamba.drawing.panels import Row, rows_figure
from umamba.drawing.slices import fullest_slice, picture_of
from umamba.raw.regions import Region


class Preview(AfterEpoch):
    """Draws image, reference and prediction of the first validation patches that have any foreground.

    Validation draws the same patches in every epoch, so these can be followed. The network's outputs are those of the
    validation: nothing is computed for the picture. W&B gets it with masks, TensorBoard as it is drawn.

    Args:
        folder: the run's folder.
        patches: how many.
        every_n_epochs: how often, at the validation that comes next; the last one is always drawn.
    """

    def __init__(self, folder: str | Path, patches: int = 3, every_n_epochs: int = 10) -> None:
        super().__init__()
        if patches < 1 or every_n_epochs < 1:
            raise ValueError(
                f"callbacks.preview takes patches and every_n_epochs of 1 or more, not {patches} and {every_n_epochs}; "
                "callbacks.preview=null leaves it out."
            )
        self.path = Path(folder) / "preview.png"
        self.patches = patches
        self.every_n_epochs = every_n_epochs
        self._rows: list[Row] = []
        self._drawn = 0  # epochs that were done when it was last drawn

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._rows = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if trainer.sanity_checking or is_trial(trainer) or not trainer.is_global_zero or not self._is_due(trainer):
            return
        for image, label, logits, case in zip(batch["image"], batch["label"], outputs, batch["case"], strict=True):
            foreground = (label > 0) & (label != module.plan.ignore_label)
            if len(self._rows) < self.patches and bool(foreground.any()):
                name = f"{case}, patch {len(self._rows) + 1}"
                shown = image[: len(module.plan.channel_names)]  # of a cascade the previous stage's labels follow
                self._rows.append(_row(shown, label, logits, name, module.plan.regions))

    def after_epoch(self, trainer: L.Trainer, module: Any) -> None:
        if not self._rows:
            return
        spacing = module.plan.configuration(module.configuration).spacing
        rows = [replace(row, aspect=spacing[-2] / spacing[-1]) for row in self._rows]
        names = shown_classes(module)
        rows_figure(rows, self.path, names, f"after epoch {trainer.current_epoch}, patches as the network sees them")
        self._rows, self._drawn = [], trainer.current_epoch
        pictures = [
            Masked(row.picture, {"reference": row.reference, "prediction": row.prediction}, row.name) for row in rows
        ]
        send_masked(trainer.loggers, "preview", self.path, trainer.global_step, pictures, {0: "background", **names})

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Whether this validation is drawn: it is the first, the next after so many epochs, or the last."""
        done = trainer.current_epoch + 1
        every = trainer.check_val_every_n_epoch or 1
        last = trainer.max_epochs is not None and 0 <= trainer.max_epochs - done < every
        return last or self._drawn == 0 or done - self._drawn >= self.every_n_epochs


def _row(image: Tensor, label: Tensor, logits: Tensor, name: str, regions: Sequence[Region]) -> Row:
    """The slice of one patch with most reference: image (C, *S), label (*S), logits (K, *S)."""
    reference = label.clamp(min=0).byte().cpu().numpy()
    z = None if reference.ndim == 2 else fullest_slice(reference, [])
    if z is not None:
        image, logits, reference = image[:, z], logits[:, z], reference[z]
    picture = picture_of(image.float().cpu().numpy())
    return Row(name=name, picture=picture, reference=reference, prediction=_classes(logits, regions))


def _classes(logits: Tensor, regions: Sequence[Region]) -> Any:
    """Label map of logits (K, *S): the largest one's, or of regions what the last one above 0 is written as."""
    if not regions:
        return torch.argmax(logits, dim=0).byte().cpu().numpy()
    label = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for region, own in zip(regions, logits, strict=True):
        label.masked_fill_(own > 0, region.written)
    return label.cpu().numpy()
