"""One line an epoch, on the console and in train.log, also where no progress bar can be drawn."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from umamba.callbacks.after_epoch import AfterEpoch
from umamba.callbacks.cost import Cost
from umamba.words import duration

log = logging.getLogger(__name__)

MONITORED = "val/dice_ema"  # of the best checkpoint
WAITED = "waited"  # s of the epoch in which the host waited for batches; no metric of metrics.csv
_WORTH_SAYING = 0.05  # share of an epoch
_RECENT = 20  # epochs whose mean seconds tell how long the rest takes


class EpochLine(AfterEpoch):
    """Logs epoch, losses, pseudo Dice in all and by class, learning rate, seconds, GPU memory and the time left.

    A star marks the best smoothed pseudo Dice so far, which is when ``best.ckpt`` is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.best: float | None = None
        self._rate: float | None = None  # of the epoch under way
        self._rate_is_known = False
        self._validated = False
        self._is_best = False
        self._waited = 0.0  # s for batches, in this epoch
        self._asked: float | None = None  # since when for the next one

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self._rate = state_dict["best"], state_dict.get("rate")  # which earlier versions did not keep

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._rate_is_known = False

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_start(trainer, module)
        self._rate_is_known = False

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        # After its last step an epoch is still to be validated, and the optimizer has the next one's rate: a run that
        # goes on there keeps what the checkpoint says.
        if not self._rate_is_known:
            self._rate, self._rate_is_known = _rate_of(trainer), True
        if self._asked is not None:
            self._waited += time.perf_counter() - self._asked
            self._asked = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._asked = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._asked = None  # what follows is no waiting

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        self._asked = None
        smoothed = float(trainer.callback_metrics.get(MONITORED, math.nan))
        self._is_best = self._validated and (self.best is None or smoothed > self.best) and not math.isnan(smoothed)
        if self._is_best:
            self.best = smoothed  # here, for the checkpoint that is written next

    def after_epoch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not self._validated:
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
        self._validated = False
        metrics[WAITED], self._waited = self._waited, 0.0
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        line = epoch_line(
            metrics, getattr(module, "class_names", ()), is_best=self._is_best, rate=self._rate, left=time_left(trainer)
        )
        log.info("Epoch %d%s: %s", trainer.current_epoch, of, line)


def epoch_line(
    metrics: Mapping[str, float],
    classes: Sequence[str],
    *,
    is_best: bool = False,
    rate: float | None = None,
    left: float | None = None,
) -> str:
    """What an epoch brought, in one line; what is not known is left out.

    Args:
        metrics: of the epoch, by their names in metrics.csv; of validation only if there was one.
        classes: names of the foreground classes, in the order of their scores.
        is_best: whether the smoothed pseudo Dice is the best so far.
        rate: learning rate of the epoch.
        left: seconds until the training ends.
    """
    parts = [f"loss {metrics['train/loss']:.3f}" if "train/loss" in metrics else "no step taken"]
    if "val/loss" in metrics:
        parts.append(f"val {metrics['val/loss']:.3f}")
    if "val/dice" in metrics:
        of_classes = " ".join(_short(metrics.get(f"val/dice_{name}", math.nan)) for name in classes)
        parts.append(f"Dice {_short(metrics['val/dice'], 3)}{'*' if is_best else ''} [{of_classes}]")
    if metrics.get("train/skipped_steps"):
        parts.append(f"{metrics['train/skipped_steps']:.0f} steps skipped")
    if rate is not None:
        parts.append(f"lr {rate:.2g}")
    if "cost/epoch_seconds" in metrics:
        seconds = metrics["cost/epoch_seconds"]
        waited = metrics.get(WAITED, 0.0) / seconds if seconds else 0.0
        parts.append(duration(seconds) + (f" ({waited:.0%} waiting for data)" if waited >= _WORTH_SAYING else ""))
    if "cost/peak_vram_gib" in metrics:
        parts.append(f"{metrics['cost/peak_vram_gib']:.1f} GiB")
    if left:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def time_left(trainer: L.Trainer) -> float | None:
    """Seconds until the training ends, by the mean of the last epochs; None where that is not known."""
    seconds = next((callback.epoch_seconds for callback in trainer.callbacks if isinstance(callback, Cost)), [])  # type: ignore[attr-defined]
    limits: list[float] = []
    if seconds:
        recent = seconds[1:][-_RECENT:] or seconds  # in the first one kernels are made and caches filled
        mean = sum(recent) / len(recent)
        if (trainer.max_epochs or -1) >= 0:
            limits.append((trainer.max_epochs - trainer.current_epoch) * mean)  # type: ignore[operator]
        if trainer.max_steps >= 0 and trainer.global_step:
            limits.append(
                (trainer.max_steps - trainer.global_step) * mean * trainer.current_epoch / trainer.global_step
            )
    timers = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    limits += [left for left in timers if left is not None]
    return max(0.0, min(limits)) if limits else None


def _short(score: float, decimals: int = 2) -> str:
    return "–" if math.isnan(score) else f"{score:.{decimals}f}"


def _rate_of(trainer: L.Trainer) -> float | None:
    return next((float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups), None)
