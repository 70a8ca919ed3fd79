"""Says after the first steps how long a training is going to take, before anybody has waited for days."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L

from umamba.words import count, duration

log = logging.getLogger(__name__)

_STEPS, _SECONDS = 10, 20.0  # measured, whichever comes first; not the first step, in which kernels are made
_SHORT = 120.0  # s: a training that is over before this is read
_LONG = 3 * 86400.0  # s: on a CPU, longer than anybody means to wait


class Pace(L.Callback):
    """Logs seconds per step and the hours that all steps together take, once in a call; warns of days on a CPU."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._steps = 0
        self._said = False

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if self._said or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        if self._began is None:
            self._began = now
            return
        self._steps += 1
        if self._steps < _STEPS and now - self._began < _SECONDS:
            return
        self._said = True
        seconds = (now - self._began) / self._steps
        message = pace(seconds, int(trainer.num_training_batches), trainer.max_epochs, trainer.current_epoch)
        if message is None:
            return
        total, text = message
        if total > _LONG and trainer.strategy.root_device.type == "cpu":
            log.warning("%s That is long for a CPU: take a GPU, fewer trainer.max_epochs or data.iterations_per_epoch, "
                        "or a smaller plan (data.planning.memory_gb, data.planning.base_features).", text)  # fmt: skip
        else:
            log.info("%s", text)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._said = True  # an epoch of fewer steps says itself how long it takes


def pace(seconds: float, batches: int, max_epochs: int | None, done: int) -> tuple[float, str] | None:
    """Seconds that the steps left take, and the sentence about it; None of a training that is short or has no end.

    A step takes `seconds`, an epoch has so many batches, and `done` epochs are done.
    """
    if max_epochs is None or max_epochs < 0:
        return None
    epochs = max_epochs - done
    total = seconds * batches * epochs
    if total < _SHORT:
        return None
    steps = f"{count(epochs, 'epoch')} of {count(batches, 'step')}"
    return total, f"A step takes {_fine(seconds)}: {steps} take about {duration(total)}, plus validation."


def _fine(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.995 else duration(seconds)
