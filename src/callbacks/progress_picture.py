"""progress.png: the whole history of a run, drawn anew after every epoch."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from umamba.callbacks.after_epoch import AfterEpoch
from umamba.callbacks.sent_pictures import send_picture, shown_classes
from umamba.callbacks.trial import is_trial
from umamba.drawing.history import history_figure


class ProgressPicture(AfterEpoch):
    """Draws losses, pseudo Dice by class, learning rate and seconds of all epochs from metrics.csv.

    A run that is gone on with has its whole history there, so the picture has it too.

    Args:
        folder: the run's folder.
        send_every_n_epochs: how often W&B and TensorBoard get the picture, beside the last epoch's; 0 for never.
    """

    def __init__(self, folder: str | Path, send_every_n_epochs: int = 50) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.send_every_n_epochs = send_every_n_epochs

    def after_epoch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        metrics_csv, path = self.folder / "metrics.csv", self.folder / "progress.png"
        if is_trial(trainer) or not metrics_csv.is_file():
            return
        loss = getattr(module, "loss_name", "")
        history_figure(metrics_csv, path, shown_classes(module), self.folder.name, loss)
        last = trainer.current_epoch == trainer.max_epochs or trainer.should_stop
        if self.send_every_n_epochs and (last or trainer.current_epoch % self.send_every_n_epochs == 0):
            send_picture(trainer.loggers, "progress", path, trainer.global_step)
