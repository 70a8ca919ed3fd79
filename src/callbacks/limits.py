"""The end of a training by a number of steps or by time, also within an epoch, from where a later call may go on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from umamba.callbacks.trial import is_trial

_VALIDATION, _BATCHES = "epoch_loop.val_loop.batch_progress", "epoch_loop.batch_progress"


class LimitReached(Exception):
    """The training has come to a limit within an epoch; its message says to which."""


class Limits(Timer):
    """Ends a training at the step that reaches ``max_steps`` or ``max_time``, with a checkpoint of this very place.

    Left to itself, Lightning ends the epoch there: without the step of the schedule, with a row in the metrics (and
    for ``max_time`` with a validation) that an uninterrupted run does not have, and a training that goes on leaves out
    the rest of the epoch. So an epoch that is cut short is left as a signal leaves it.

    Args:
        path: of the checkpoint to write; None where a run keeps none.
        max_time: of all calls together, as Lightning's Trainer takes it; None for no limit.

    Raises:
        ValueError: `max_time` is no time, or none at all.
    """

    def __init__(self, path: Path | None, max_time: str | dict[str, int] | timedelta | None = None) -> None:
        try:
            super().__init__(max_time, interval="epoch", verbose=False)
        except (MisconfigurationException, TypeError) as error:
            raise ValueError(
                f"trainer.max_time is {max_time!r}; expected days:hours:minutes:seconds, such as 00:12:00:00, or null."
            ) from error
        if self._duration == 0:
            raise ValueError(
                "trainer.max_time is 0, so nothing would be trained; trainer.max_epochs=0 keeps and tests a network as "
                "it was made."
            )
        self.path = path
        self._validation_due = False

    @property
    def state_key(self) -> str:
        """As Lightning's, whose place it takes in checkpoints of earlier versions too."""
        return Timer.__qualname__

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        if is_trial(trainer) or loop._num_ready_batches_reached() or loop._should_accumulate():
            return  # the epoch ends by itself, or the step is not taken yet
        reason = self._limit(trainer)
        if reason is None:
            return
        fetcher = trainer.fit_loop._data_fetcher
        self._validation_due = fetcher is not None and loop._should_check_val_fx(fetcher)
        if self.path is not None:
            trainer.save_checkpoint(self.path, weights_only=False)
        raise LimitReached(f"{reason} is reached within epoch {trainer.current_epoch}, at step {trainer.global_step}")

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._validation_due:
            validation_follows(checkpoint["loops"]["fit_loop"], after_step=True)

    def _limit(self, trainer: L.Trainer) -> str | None:
        """The limit that is reached; all processes get the same answer."""
        if 0 <= trainer.max_steps <= trainer.global_step:
            return f"trainer.max_steps={trainer.max_steps}"
        if self._duration is None or not trainer.fit_loop._can_stop_early:
            return None
        over = trainer.strategy.broadcast(self.time_elapsed() >= self._duration)
        return f"trainer.max_time ({timedelta(seconds=self._duration)})" if over else None


def is_over(state: dict[str, Any], max_time: str | dict[str, int] | timedelta | None) -> bool:
    """Whether a checkpoint, read as plain data, was written when ``max_time`` was over."""
    timer = Limits(None, max_time)
    timer.load_state_dict(state.get("callbacks", {}).get(timer.state_key, {}))
    return timer._duration is not None and timer.time_elapsed() >= timer._duration


def validation_follows(loop: dict[str, Any], *, after_step: bool = False) -> None:
    """Have a checkpoint say that its training goes on with the validation that is due, from its beginning.

    Args:
        loop: state of the fit loop in the checkpoint, changed in place.
        after_step: the checkpoint is written at the end of a step, which Lightning has not counted as completed yet.
    """
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    loop[_VALIDATION].update(total=dict(begun), current=dict(begun))
    if after_step:
        for counts in (loop[_BATCHES]["total"], loop[_BATCHES]["current"]):
            counts["completed"] += 1
