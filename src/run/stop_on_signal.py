"""A training that is told to stop writes its checkpoint at the next step, from which it goes on bit by bit the same."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import lightning as L

from umamba.callbacks.limits import validation_follows
from umamba.run.stop import Stopped, listen, requested

log = logging.getLogger(__name__)


class StopOnSignal(L.Callback):
    """Saves and stops at the first step after a signal, with any number of processes.

    Steps are those of training and of validation. A validation that was interrupted is done again from its beginning
    when the training goes on. Lightning's own handler of SIGTERM is replaced: it saves nothing, ends with code 0, and
    under DDP communicates in the middle of whatever the processes are at.

    Args:
        path: of the checkpoint to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._in_validation = False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        listen()  # Lightning has put its own handlers there by now

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._told(trainer):  # on_train_epoch_end has saved, or nothing is trained yet
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        last = loop.batch_progress.is_last_batch or (fetcher is not None and loop._should_check_val_fx(fetcher))
        if loop._should_accumulate() or last or not self._told(trainer):
            return  # validation or the epoch's end come next and have their own place to stop
        trainer.save_checkpoint(self.path)
        self._stop(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.sanity_checking or not self._told(trainer):
            return
        self._in_validation = True
        trainer.save_checkpoint(self.path)
        self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._told(trainer):
            trainer.save_checkpoint(self.path)  # the stop itself waits until the epoch's metrics are written

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._in_validation:
            validation_follows(checkpoint["loops"]["fit_loop"])

    def _told(self, trainer: L.Trainer) -> bool:
        """Whether any process was told to stop; all get the same answer."""
        told = requested() is not None
        return trainer.strategy.reduce_boolean_decision(told, all=False) if trainer.world_size > 1 else told

    def _stop(self, trainer: L.Trainer) -> None:
        log.info("Epoch %d, step %d is in %s.", trainer.current_epoch, trainer.global_step, self.path)
        raise Stopped(requested() or signal.SIGTERM)
