"""A training that is told to stop writes its checkpoint at the next step, from which it goes on bit by bit the same."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from umamba.callbacks.finite_watch import FromDevice
from umamba.callbacks.last_checkpoint import LastCheckpoint, log_epoch
from umamba.callbacks.limits import validation_follows
from umamba.run.stop import Stopped, listen, requested

log = logging.getLogger(__name__)


class StopOnSignal(Checkpoint):
    """Saves and stops at the first step after a signal, with any number of processes.

    Steps are those of training and of validation. A validation that was interrupted is done again from its beginning
    when the training goes on. Of several processes a training step asks all, and the next one gets the answer, so that
    none waits for its device: they stop a step later. Lightning's own handler of SIGTERM is replaced: it saves nothing,
    ends with code 0, and under DDP communicates in the middle of whatever the processes are at.

    It counts as one of Lightning's Checkpoints, which come last at an epoch's end: what is saved there is the state
    after the module's own hook, with the epoch's row in the metrics. Where `LastCheckpoint` saves that, it is not saved
    twice.

    Args:
        path: of the checkpoint to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._in_validation = False
        self._asked: FromDevice | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        listen()  # Lightning has put its own handlers there by now
        trainer._signal_connector.received_sigterm = False  # what these have noted would end it without a checkpoint
        ask_nothing_else(trainer)
        self._asked = None

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._told(trainer):  # on_train_epoch_end has saved, or nothing is trained yet
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        last = loop.batch_progress.is_last_batch or (fetcher is not None and loop._should_check_val_fx(fetcher))
        if loop._should_accumulate() or last or not self._told_before(trainer):
            return  # validation or the epoch's end come next and have their own place to stop
        trainer.save_checkpoint(self.path, weights_only=False)
        self._stop(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.sanity_checking or not self._told(trainer):
            return
        self._in_validation = True
        trainer.save_checkpoint(self.path, weights_only=False)
        self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # The stop itself waits for the next epoch's start
        if not any(isinstance(one, LastCheckpoint) for one in trainer.checkpoint_callbacks) and self._told(trainer):
            log_epoch(trainer)
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._in_validation:
            validation_follows(checkpoint["loops"]["fit_loop"])

    def _told(self, trainer: L.Trainer) -> bool:
        """Whether any process was told to stop; all get the same answer."""
        told = requested() is not None
        return trainer.strategy.reduce_boolean_decision(told, all=False) if trainer.world_size > 1 else told

    def _told_before(self, trainer: L.Trainer) -> bool:
        """The same, of several processes as it was one step ago."""
        if trainer.world_size == 1:
            return requested() is not None
        earlier, self._asked = self._asked, _ask(requested() is not None, trainer.strategy.root_device)
        return earlier is not None and bool(earlier)

    def _stop(self, trainer: L.Trainer) -> None:
        if self.path.is_file():
            log.info("Epoch %d, step %d is in %s.", trainer.current_epoch, trainer.global_step, self.path)
        else:
            log.info("No step was trained, and there is no checkpoint.")
        raise Stopped(requested() or signal.SIGTERM)


def _ask(yes: bool, device: torch.device) -> FromDevice:
    """Whether any process says yes, which is asked now and known later. All of them ask at the same places."""
    asked = torch.full((), float(yes), device=device)  # filled there: a copy from here would be waited for
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    return FromDevice(asked)


def ask_nothing_else(trainer: L.Trainer) -> None:
    """Keep Lightning from asking, before each step of several processes, what only its own handler would have noted.

    It waits for the answer, and so for the device, which then has nothing to do until the step is launched.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
