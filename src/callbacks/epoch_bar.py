"""A bar for the epoch under way, on a terminal only: what is to be kept is said in lines."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PAUSE = 0.2  # s between drawings


class EpochBar(ProgressBar):
    """Steps of the epoch and of its validation; the bar vanishes when the epoch is over.

    It is drawn by the training itself, not by a thread, which a forked worker could find holding the console.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._drawn = 0.0

    def disable(self) -> None:
        """Draw nothing: Lightning calls this in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Draw."""
        self._enabled = True

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        self._show(f"epoch {trainer.current_epoch + 1}{of}", batch_idx + 1, self.total_train_batches)

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not trainer.sanity_checking:
            self._show("validation", batch_idx + 1, self.total_val_batches)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._remove()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._remove()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._remove()

    def _show(self, what: str, done: int, total: float) -> None:
        if not self._enabled or not sys.__stdout__ or not sys.__stdout__.isatty():
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), transient=True, auto_refresh=False, expand=False,
            )  # fmt: skip
            self._bar.start()
        task = self._bar.tasks[-1] if self._bar.tasks else None
        if task is None or task.description != what:
            for old in self._bar.task_ids:
                self._bar.remove_task(old)
            self._bar.add_task(what, total=total, completed=done)
        else:
            self._bar.update(task.id, completed=done)
        if time.monotonic() - self._drawn > _PAUSE or done == total:
            self._bar.refresh()
            self._drawn = time.monotonic()

    def _remove(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
