"""The trainer, model and data module of a run, built before any data are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from umamba.datamodules.base import SegmentationDataModule
from umamba.models.build import check_preset
from umamba.models.build_loss import check_is_loss, check_loss
from umamba.models.schedules import make_optimizer_and_schedule
from umamba.raw.description import DatasetDescription
from umamba.run.stop_on_signal import StopOnSignal
from umamba.targets import check_config
from umamba.trainer import check_last_checkpoint, check_precision, entries, make_trainer, optimizer_of


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run consists of.

    Attributes:
        trainer: With the run's callbacks.
        model: What the configuration's ``model`` builds: network, optimizer, scheduler and deep_supervision.
        loss: What its ``loss`` builds: a way to make the loss.
        datamodule: Of the data, which it has not opened.
    """

    trainer: L.Trainer
    model: Any
    loss: Any
    datamodule: SegmentationDataModule


def build_parts(cfg: DictConfig, last: Path, loggers: Sequence[Logger] = ()) -> Parts:
    """Build them; all that a configuration and a dataset.json tell to be wrong is refused here.

    Who is about to start trainings as processes calls this for what it refuses.

    Raises:
        ValueError, OSError, ImportError, HydraException: A value is wrong, or asks for what this machine has not.
    """
    check_config(OmegaConf.to_container(cfg, resolve=True), cfg.trusted)
    callbacks = entries(cfg.get("callbacks"))
    check_last_checkpoint(last, cfg, callbacks)
    check_precision(cfg.trainer)
    trainer = make_trainer(cfg.trainer, loggers, [*callbacks, StopOnSignal(last)])
    model = instantiate(cfg.model)
    datamodule = instantiate(cfg.data)
    if cfg.train:
        datamodule.placement.check(trainer.strategy.root_device)
    check_preset(model.network, datamodule.planning)
    make_optimizer_and_schedule(
        optimizer_of(cfg, model), model.scheduler, [nn.Parameter(torch.zeros(1, 1))],
        cfg.trainer.max_epochs, cfg.get("warmup_epochs") or 0,
    )  # fmt: skip
    check_is_loss(loss := instantiate(cfg.loss))
    described = datamodule.dataset_dir / "dataset.json"
    if described.is_file():  # else it is still to be made
        check_loss(loss, DatasetDescription.read(described), 2 if datamodule.configuration == "2d" else 3)
    return Parts(trainer=trainer, model=model, loss=loss, datamodule=datamodule)
