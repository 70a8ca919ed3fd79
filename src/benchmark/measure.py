"""One timed training: a setting, its batches real or dummy, with a number of workers."""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from umamba.benchmark.step_times import DeviceWatch, EpochSteps, StepTimes
from umamba.benchmark.verdict import batches_of, bound_of
from umamba.callbacks.cost import Cost
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.dummy import DummyDataModule
from umamba.datamodules.placement import NEVER, Placement
from umamba.machine import processor_name, usable_cpus
from umamba.run.provenance import git_revision
from umamba.run.stop_on_signal import ask_nothing_else
from umamba.trainer import entries, fit, make_module, make_trainer

log = logging.getLogger(__name__)

FEEDS = ("real", "dummy")


def measure(
    cfg: DictConfig, model: Any, datamodule: SegmentationDataModule, feed: str, workers: int | None
) -> dict[str, Any]:
    """Train for a few epochs and say what they took, as plain data.

    Args:
        cfg: Of the benchmark.
        model: What ``cfg.model`` builds.
        datamodule: Planned, and for real batches prepared.
        feed: "real" or "dummy".
        workers: Of the loader; None for dummy batches.

    Returns:
        The row: what was timed (see `identity`), where, and the times.
    """
    epochs = cfg.trainer.max_epochs
    log.info("Timing %d epochs of %s: %s.", epochs, cfg.model_name, batches_of(feed, workers))
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    cost, times = Cost(None), StepTimes()
    watch = DeviceWatch(epochs, times)
    trainer = make_trainer(cfg.trainer, [], [*entries(cfg.get("callbacks")), cost, watch])
    ask_nothing_else(trainer)  # as in a training
    trainer.profiler = times  # type: ignore[attr-defined]  # the Trainer is given it outside of its class
    data: SegmentationDataModule | DummyDataModule = datamodule
    if feed == "dummy":
        data = DummyDataModule(
            datamodule.plan,
            datamodule.plan_configuration,
            iterations_per_epoch=datamodule.iterations_per_epoch,
            val_iterations=datamodule.val_iterations,
        )
    else:
        datamodule.num_workers = workers or 0
        datamodule.placement = Placement(datamodule.placement.choice)  # which auto decides anew
        datamodule.check_shared_memory()
    module = make_module(cfg, model, datamodule.plan, {})
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of what was timed before
        torch.cuda.reset_peak_memory_stats(device)
    fit(trainer, module, data)
    seconds = cost.epoch_seconds[:epochs]
    fastest = min(range(len(seconds)), key=seconds.__getitem__)
    row = _setting(cfg, datamodule, feed, workers) | _machine(device, trainer.world_size) | {
        "epoch_s": seconds[fastest],
        "epochs_s": seconds,
        "first_epoch": _parts(times.epochs[0], seconds[0]),
        "step_ms": times.epochs[fastest].step_ms,
        "loader_ms": times.epochs[fastest].loader_ms,
        "host_ms": watch.found.host_ms if watch.found else None,
        "device_ms": watch.found.device_ms if watch.found else None,
        **_memory(device),
        "augmented_on": _place(datamodule) if feed == "real" else None,
    }  # fmt: skip
    del module, trainer
    gc.collect()  # the loader's processes end with it
    return row | {"bound": bound_of(row)}


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What two rows that measure the same have in common."""
    return tuple(str(row.get(key)) for key in (*_SETTING, "machine", "devices"))


_SETTING = (
    "data", "configuration", "model", "feed", "workers", "patch_size", "batch_size", "iterations", "precision",
    "augmentation", "augment_on", "cuda_graph", "compile",
)  # fmt: skip


def _setting(cfg: DictConfig, datamodule: SegmentationDataModule, feed: str, workers: int | None) -> dict[str, Any]:
    configuration = datamodule.plan_configuration
    return {
        "data": cfg.data_name,
        "configuration": cfg.data.configuration,
        "model": cfg.model_name,
        "feed": feed,
        "workers": workers,
        "patch_size": list(configuration.patch_size),
        "batch_size": configuration.batch_size,
        "iterations": [datamodule.iterations_per_epoch, datamodule.val_iterations],
        "precision": cfg.trainer.precision,
        "augmentation": cfg.augmentation_name if feed == "real" else None,
        "augment_on": cfg.data.augment_on if feed == "real" else None,
        "cuda_graph": cfg.cuda_graph,
        "compile": cfg.compile,
    }


def _machine(device: torch.device, devices: int) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        "devices": devices,
        "cpus": usable_cpus(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "commit": git_revision(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _parts(epoch: EpochSteps, seconds: float) -> dict[str, float]:
    """What an epoch spends where, s: its first step, the others, and validation with what else is done at the end."""
    training = epoch.ended - epoch.began
    return {
        "first_step_s": epoch.first,
        "other_steps_s": training - epoch.first,
        "rest_s": seconds - training,
        "of_it_waiting_s": epoch.waited,
    }


def _place(datamodule: SegmentationDataModule) -> str:
    """Where the last epoch's patches were augmented."""
    return "cpu" if int(datamodule.placement.first) == NEVER else "cuda"


def _memory(device: torch.device) -> dict[str, float | None]:
    """Peak of the tensors, and of all that torch held, GiB."""
    if device.type != "cuda":
        return {"peak_gib": None, "held_gib": None}
    return {
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "held_gib": torch.cuda.max_memory_reserved(device) / 2**30,
    }
