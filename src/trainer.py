"""The Trainer of a run: what a configuration switches off is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from umamba.callbacks.atomic_checkpoint import AtomicCheckpointIO
from umamba.callbacks.last_checkpoint import LastCheckpoint


def entries(config: DictConfig | None) -> list[Any]:
    """The objects of a group of named entries; an entry that is null, or the whole group, gives none."""
    return [instantiate(entry) for entry in (config or {}).values() if entry is not None]


def make_trainer(config: DictConfig, loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> L.Trainer:
    """Build Lightning's Trainer, which adds nothing of its own in place of a callback that was left out.

    Without loggers there is nobody to monitor the learning rate for: Lightning's monitor would refuse to run.
    """
    callbacks = [callback for callback in callbacks if loggers or not isinstance(callback, LearningRateMonitor)]
    return instantiate(
        config,
        logger=list(loggers),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )


def check_last_checkpoint(path: Path, config: DictConfig, callbacks: Sequence[Callback]) -> None:
    """Refuse, before any work, a run whose test would find no checkpoint.

    Args:
        path: where `train.py` looks for the last checkpoint.
        config: of the run; with train, test and trainer.
        callbacks: of the run.

    Raises:
        ValueError: the callback that writes it is left out.
    """
    if not config.train or not config.test or config.trainer.get("fast_dev_run"):
        return
    if not any(isinstance(callback, LastCheckpoint) and callback.path == path for callback in callbacks):
        raise ValueError(
            f"test=true needs {path}, which callbacks.last writes and this run leaves out. Set test=false, or leave "
            "callbacks.last as it is."
        )
