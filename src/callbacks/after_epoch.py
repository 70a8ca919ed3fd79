"""What is said and drawn once an epoch is over, and may never end a training."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

import lightning as L

log = logging.getLogger(__name__)


class AfterEpoch(L.Callback, ABC):
    """Calls `after_epoch` when an epoch's metrics are in metrics.csv and its checkpoint is written.

    Lightning logs what a module logs at the end of an epoch after the callbacks' own hook for it; so this acts where
    the next epoch begins or the training ends, in the first process. An error there is one warning, and the end of
    this callback, not of the training.
    """

    def __init__(self) -> None:
        self._due = False
        self._failed = False

    @abstractmethod
    def after_epoch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say or draw; ``trainer.current_epoch`` is the number of epochs done."""

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._due = True

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._act(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._act(trainer, module)

    def _act(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        due, self._due = self._due, False
        if not due or self._failed or not trainer.is_global_zero:
            return
        try:
            self.after_epoch(trainer, module)
        except Exception as error:  # of matplotlib, of a disk, of a logger: none of them is worth the training
            self._failed = True
            log.warning("%s has failed and is left out; the training goes on: %s", type(self).__name__, error)
