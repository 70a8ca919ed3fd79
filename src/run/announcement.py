"""What a training says of itself before it begins and when it has ended."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from umamba.callbacks.cost import Cost
from umamba.callbacks.epoch_line import EpochLine
from umamba.callbacks.finite_watch import FiniteWatch
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.callbacks.preview import Preview
from umamba.callbacks.progress_picture import ProgressPicture
from umamba.callbacks.trial import is_trial
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.splits import SPLITS_FILE, Split, read_splits
from umamba.models.segmentation_module import SegmentationModule
from umamba.run.folder import Run
from umamba.run.job_state import steps_per_epoch
from umamba.run.sweep import argument, short
from umamba.words import count

log = logging.getLogger(__name__)

_PICTURES = (".png", ".bmp", ".tif")  # have no voxel size
_PICTURES_OF: dict[type[Callback], str] = {ProgressPicture: "progress.png", Preview: "preview.png"}
_LOST: dict[type[Callback], str] = {
    ModelCheckpoint: "best.ckpt (callbacks.best)",
    EpochLine: "a line an epoch (callbacks.line)",
    Cost: "cost.json, so no cost in reports and no time left (callbacks.cost)",
}
_PREPROCESSED = "nnUNet_preprocessed"
_OF_NNUNET = {_PREPROCESSED: "paths.prepared", "nnUNet_results": "paths.runs"}


def announce(run: Run, trainer: L.Trainer, datamodule: SegmentationDataModule, module: SegmentationModule) -> None:
    """Log device, plan, network, loss, how long it trains, the run's folder and how to watch it."""
    if not trainer.is_global_zero:
        return
    for variable, key in _OF_NNUNET.items():
        if os.environ.get(variable):
            log.info("%s is not used, because its files have another form; use %s=... instead.", variable, key)
    if message := _other_folds(datamodule):
        log.warning("%s", message)
    log.info("Device: %s; precision %s.", _device(trainer), trainer.precision)
    log.info("Plan: %s.", plan_line(datamodule))
    parameters = sum(parameter.numel() for parameter in module.network.parameters())
    log.info("Network: %s, %.1f million parameters.", type(module.network).__name__, parameters / 1e6)
    log.info("Loss: %s.", module.loss_name)
    log.info("Training: %s.", length_line(trainer, datamodule.iterations_per_epoch))
    log.info("Pseudo Dice per class, in this order: %s.", ", ".join(module.class_names))
    log.info("Folder: %s", short(run.folder))
    log.info("To watch it: %s", _watching(run.folder, trainer))
    for level, lost in _lost(trainer):
        log.log(level, "%s", lost)


def _other_folds(datamodule: SegmentationDataModule) -> str | None:
    """What to say where nnU-Net's folder of the data set deals its cases into other folds than are trained here."""
    folder, fold = os.environ.get(_PREPROCESSED), datamodule.fold
    path = Path(folder or "") / datamodule.dataset_dir.resolve().name / SPLITS_FILE
    if not folder or fold == "all" or not path.is_file():
        return None
    here = Split(train=datamodule.train_ids, val=datamodule.val_ids)
    try:
        there = read_splits(path)
    except ValueError:  # nothing here depends on a file that is not read
        return None
    if int(fold) < len(there) and there[int(fold)] == here:
        return None
    return (
        f"{path} holds another fold {fold} than is trained here. To train nnU-Net's folds, copy it beside dataset.json "
        f"in {datamodule.dataset_dir}; scores of unlike folds cannot be compared."
    )


def plan_line(datamodule: SegmentationDataModule) -> str:
    """The configuration that is trained, in one line."""
    entry = datamodule.plan_configuration
    features = entry.features_per_stage
    unit = "px" if datamodule.plan.file_ending in _PICTURES else "mm"
    return (
        f"{entry.name}, patch {_times(entry.patch_size)}, batch {entry.batch_size}, spacing {_times(entry.spacing)} "
        f"{unit}, {count(len(features), 'stage')} of {features[0]} to {features[-1]} features"
    )


def length_line(trainer: L.Trainer, batches: int) -> str:
    """How long is trained, as the Trainer is set; `batches` are those of an epoch of the data."""
    nothing = [key for key in ("max_epochs", "max_steps") if getattr(trainer, key) == 0]
    if nothing:
        return f"none, for trainer.{nothing[0]}=0; the network stays as it is"
    limited = trainer.max_epochs is not None and trainer.max_epochs >= 0
    epochs = count(trainer.max_epochs or 0, "epoch") if limited else "epochs"
    accumulated = trainer.accumulate_grad_batches
    steps = count(steps_per_epoch(batches, trainer.limit_train_batches, accumulated), "step")
    each = f", each of {accumulated} batches" if accumulated > 1 else ""
    most = f", and no more than {count(trainer.max_steps, 'step')}" if trainer.max_steps > 0 else ""
    return f"{epochs} of {steps}{each}{most}"


def conclude(folder: Path, trusted: Sequence[str] = (), limit: str | None = None) -> None:
    """Log where the results are, and the commands that go on from here; `limit` is what has ended the training."""
    larger = f" trainer.{limit}=MORE" if limit in ("max_epochs", "max_steps", "max_time") else ""
    checkpoint = Path(short(folder)) / "checkpoints" / "last.ckpt"
    trust = f" trusted=[{','.join(trusted)}]" if trusted else ""
    log.info(
        "The results are in %s\n"
        "  predict:   python predict.py %s input=IMAGES output=PREDICTIONS%s\n"
        "  evaluate:  python eval.py %s output=SCORES%s\n"
        "  continue:  python train.py %s%s%s",
        short(folder), argument("checkpoint", checkpoint), trust, argument("ckpt_path", checkpoint), trust,
        argument("run_dir", Path(short(folder))), larger, trust,
    )  # fmt: skip


def _device(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {count(torch.get_num_threads(), 'thread')}"
    )
    return name if trainer.world_size == 1 else f"{trainer.world_size} processes, each on {name}"


def _watching(folder: Path, trainer: L.Trainer) -> str:
    drawn = [] if is_trial(trainer) else [name for kind, name in _PICTURES_OF.items() if _has(trainer, kind)]
    if not trainer.loggers:
        drawn = [name for name in drawn if name != _PICTURES_OF[ProgressPicture]]
    ways = [f"`tail -f {shlex.quote(str(Path(short(folder)) / 'train.log'))}`"]
    ways += [f"{' and '.join(drawn)} there"] if drawn else []
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        ways.append(f"`tensorboard --logdir {shlex.quote(short(folder))}`")
    wandb_runs = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    online = [run for run in wandb_runs if not getattr(run, "offline", False)]  # W&B warns of an offline run's address
    return "; ".join([*ways, *(run.url for run in online if run.url)])


def _lost(trainer: L.Trainer) -> Iterator[tuple[int, str]]:
    """What a run does without for want of a callback or a logger: level of the log, and a sentence."""
    if is_trial(trainer):
        return
    if not _has(trainer, LastCheckpoint):
        yield logging.WARNING, "Without callbacks.last there is no last.ckpt: the run cannot be resumed or tested."
    if not _has(trainer, FiniteWatch):
        yield logging.WARNING, "Without callbacks.finite steps of NaN or Inf are taken: one of them ruins the weights."
    lost = [what for kind, what in _LOST.items() if not _has(trainer, kind)]
    lost += [] if trainer.loggers else ["metrics.csv, and so progress.png (logger)"]
    if lost:
        yield logging.INFO, f"Left out: {'; '.join(lost)}."


def _has(trainer: L.Trainer, kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
