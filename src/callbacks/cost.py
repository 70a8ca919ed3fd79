"""What a run costs: seconds per epoch and peak GPU memory, logged and kept in the run's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from umamba.callbacks.trial import is_trial
from umamba.files import write_json


class Cost(L.Callback):
    """Logs ``cost/epoch_seconds`` and ``cost/peak_vram_gib`` and writes ``cost.json`` after each epoch.

    Args:
        folder: the run's folder; None writes no file.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = None if folder is None else Path(folder) / "cost.json"
        self.epoch_seconds: list[float] = []
        self._started: float | None = None  # of the epoch under way, as if it had not been interrupted
        self._before_resume = 0.0  # seconds of that epoch up to the checkpoint that is resumed

    def state_dict(self) -> dict[str, Any]:
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return {"epoch_seconds": list(self.epoch_seconds), "running_seconds": running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch_seconds = list(state_dict["epoch_seconds"])
        self._before_resume = state_dict.get("running_seconds", 0.0)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # A run resumed within an epoch does not start that epoch again: its seconds before the checkpoint count.
        self._started = time.perf_counter() - self._before_resume

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Validation of the epoch has already run here, as in nnU-Net's epoch times.
        assert self._started is not None  # on_train_start has set it, in a resumed epoch too
        self.epoch_seconds.append(time.perf_counter() - self._started)
        self._started = None
        on_gpu = module.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(module.device) / 2**30 if on_gpu else None
        module.log("cost/epoch_seconds", self.epoch_seconds[-1])
        if peak is not None:
            module.log("cost/peak_vram_gib", peak)
        if self.path is not None and trainer.is_global_zero and not is_trial(trainer):
            cost = {
                "device": torch.cuda.get_device_name(module.device) if on_gpu else "cpu",
                "parameters": sum(p.numel() for p in module.get_submodule("network").parameters()),
                "epoch_seconds": self.epoch_seconds,
                "peak_vram_gib": peak,
            }
            write_json(cost, self.path)
