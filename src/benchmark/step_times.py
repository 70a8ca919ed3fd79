"""What the steps of an epoch wait for: measured while a training runs, without making the host wait for the device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_FETCH = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's names
_STEP = "run_training_batch"
_EPOCH = "run_training_epoch"
_ON_GPU = ("cuda",)  # kinds of device that are recorded
_WATCHED, _BEFORE = 10, 2  # steps whose kernels are recorded, and steps of their epoch before


@dataclass(kw_only=True)
class EpochSteps:
    """The training steps of one epoch, without its validation.

    Attributes:
        began, ended: First wait for a batch, and the end of the last step on the host; s.
        waited: All the waiting for batches, s.
        first: The first step with its wait, s: kernels are loaded and algorithms tried in an epoch's first.
        steps: How many.
    """

    began: float = 0.0
    ended: float = 0.0
    waited: float = 0.0
    first: float = 0.0
    steps: int = 0

    @property
    def step_ms(self) -> float:
        """Mean time of a step, waiting included."""
        return 1e3 * (self.ended - self.began) / self.steps

    @property
    def loader_ms(self) -> float:
        """Mean time that a step waited for its batch."""
        return 1e3 * self.waited / self.steps


class StepTimes(Profiler):
    """Adds up, epoch by epoch, how long Lightning's loop waits for batches and how long it takes in all.

    Attributes:
        epochs: Of all epochs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[EpochSteps] = []
        self._asked = 0.0

    def start(self, action_name: str) -> None:
        if action_name == _EPOCH:
            self.epochs.append(EpochSteps())
        elif action_name == _FETCH:
            self._asked = time.perf_counter()
            if not self.epochs[-1].steps:
                self.epochs[-1].began = self._asked

    def stop(self, action_name: str) -> None:
        if action_name == _FETCH:
            self.epochs[-1].waited += time.perf_counter() - self._asked
        elif action_name == _STEP:
            epoch = self.epochs[-1]
            epoch.ended = time.perf_counter()
            epoch.first = epoch.first or epoch.ended - epoch.began
            epoch.steps += 1


@dataclass(kw_only=True)
class DeviceSteps:
    """A few steps as the device and the driver saw them, ms per step.

    Attributes:
        device_ms: Time in which the device had a kernel or a copy to work on.
        host_ms: The host's own work: all its time but for the waiting for batches and for the device. Recording adds
            about a microsecond to each launch.
    """

    device_ms: float
    host_ms: float


class DeviceWatch(L.Callback):
    """Records the kernels of a few steps in an epoch after those that count, and then ends the training.

    Recording slows the host, so no step that is timed is recorded. Does nothing where the device is no GPU.

    Args:
        after: Epochs that count.
        times: Of the same training.

    Attributes:
        found: What was seen, None before.
    """

    def __init__(self, after: int, times: StepTimes) -> None:
        self.after, self.times = after, times
        self.found: DeviceSteps | None = None
        self._profile: profile | None = None
        self._began = self._waited = 0.0

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.strategy.root_device.type in _ON_GPU:
            trainer.fit_loop.max_epochs = self.after + 1

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == self.after:
            trainer.limit_val_batches = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch < self.after:
            return
        before, last = _places(int(trainer.num_training_batches))
        if batch_idx == before and trainer.is_global_zero:
            torch.cuda.synchronize(module.device)
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.start()
            self._began, self._waited = time.perf_counter(), self.times.epochs[-1].waited
        if batch_idx == last:
            if self._profile is not None:
                torch.cuda.synchronize(module.device)
                seconds = time.perf_counter() - self._began
                self._profile.stop()
                waited = self.times.epochs[-1].waited - self._waited
                self.found = _seen(self._profile, last - before, 1e3 * (seconds - waited))
            trainer.should_stop = True


def _places(steps: int) -> tuple[int, int]:
    """After which step of an epoch recording begins, and after which it ends."""
    before = min(_BEFORE, max(0, steps - 2))
    return before, min(before + _WATCHED, steps - 1)


def _seen(recorded: profile, steps: int, busy_ms: float) -> DeviceSteps | None:
    """What a recording says about its steps.

    Args:
        recorded: The recording, ended.
        steps: How many it has.
        busy_ms: All its time but for the waiting for batches.
    """
    events = [e for e in recorded.events() or [] if not getattr(e, "is_user_annotation", False)]  # which span gaps
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if e.device_type == DeviceType.CUDA)
    waits = sum(e.time_range.elapsed_us() for e in events if e.device_type == DeviceType.CPU and _is_wait(e.name))
    if not spans or not steps:
        return None
    return DeviceSteps(device_ms=covered(spans) / 1e3 / steps, host_ms=max(0.0, busy_ms - waits / 1e3) / steps)


def _is_wait(name: str) -> bool:
    return name.startswith(("cuda", "hip")) and name.endswith("Synchronize")


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of what intervals cover together; sorted by their beginnings."""
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
