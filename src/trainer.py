"""The Trainer of a run: what a configuration switches off is left out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    LearningRateMonitor,
    ProgressBar,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from umamba.callbacks.atomic_checkpoint import AtomicCheckpointIO
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.callbacks.limits import LimitReached, Limits
from umamba.datamodules.at_work import SampleError, fault_of_worker
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.dummy import DummyDataModule
from umamba.models.initial_weights import freeze
from umamba.models.segmentation_module import SegmentationModule
from umamba.planning.plan import Plan
from umamba.run.cluster import check_processes, choose_environment
from umamba.run.others import ending_together
from umamba.run.quiet import quiet

log = logging.getLogger(__name__)

_LOST = re.compile(r"gloo/transport|Connection (closed|reset) by|NCCL.*(remote process|peer)", re.DOTALL)
_OTHER_GONE = (
    "Another of the {} processes of this run is gone, and the training ends with it. That one says why, above "
    "or in its own log (train_ddp_process_1.log and so on; of torchrun and srun theirs), or was killed, as for want of "
    "memory. What this one has noticed: {}"
)
_OTHER_SAID = "Another process of this run has ended, and the training ends with it: {}"


def entries(config: DictConfig | None) -> list[Any]:
    """The objects of a group of named entries; an entry that is null, or the whole group, gives none.

    They get lists and mappings as Python's own, which their states, and so checkpoints, can hold.
    """
    return [instantiate(entry, _convert_="all") for entry in (config or {}).values() if entry is not None]


def make_trainer(config: DictConfig, loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> L.Trainer:
    """Build Lightning's Trainer, which adds nothing of its own in place of a callback that was left out.

    Without loggers there is nobody to monitor the learning rate for: Lightning's monitor would refuse to run. Limits
    within an epoch are kept by a callback of this project. A training of fewer epochs than there are between two
    validations is validated in its last one, which would otherwise have no pseudo Dice, no picture and no best.ckpt.

    Raises:
        ValueError: trainer.max_time is no time, there are other processes than trainer.devices and num_nodes say,
            clipping would turn gradients round, there is no GPU to train on, a callback changes the network after its
            last checkpoint, or a callback or logger is none of Lightning's.
    """
    quiet()
    if (config.get("gradient_clip_val") or 0) < 0:
        raise ValueError(f"trainer.gradient_clip_val is {config.gradient_clip_val}; expected a norm, or null for none.")
    _refuse_foreign(callbacks, Callback)
    _refuse_foreign(loggers, Logger)
    if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        raise ValueError(
            "StochasticWeightAveraging puts its mean into the network after the last checkpoint was written, which is "
            "what is tested and predicted with. Take lightning.pytorch.callbacks.EMAWeightAveraging or "
            "WeightAveraging, whose averages are what checkpoints hold."
        )
    last = next((callback.path for callback in callbacks if isinstance(callback, LastCheckpoint)), None)
    limits = Limits(last, config.get("max_time"))
    callbacks = [callback for callback in callbacks if loggers or not isinstance(callback, LearningRateMonitor)]
    there = torch.cuda.device_count() or torch.backends.mps.is_available()
    if config.get("accelerator") in ("gpu", "cuda") and not there:
        raise ValueError(
            f"trainer.accelerator={config.accelerator}, and torch {torch.__version__} finds no GPU here. Does "
            "nvidia-smi show one? Then this build of torch does not go with it (one for CPUs finds none). "
            "trainer=cpu trains without."
        )
    environment = choose_environment()
    between, epochs = config.get("check_val_every_n_epoch"), config.get("max_epochs")
    if between and epochs and 0 < epochs < between:
        between = epochs
    trainer: L.Trainer = instantiate(
        config,
        logger=list(loggers),
        callbacks=[*callbacks, limits],
        check_val_every_n_epoch=between,
        benchmark=config.get("benchmark") and not config.get("deterministic"),  # which is ignored beside it
        max_time=None,
        plugins=[AtomicCheckpointIO(), *([environment] if environment else [])],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )
    check_processes(trainer)
    return trainer


def _refuse_foreign(parts: Sequence[object], kind: type) -> None:
    for part in parts:
        if not isinstance(part, kind):
            raise ValueError(
                f"{type(part).__module__}.{type(part).__qualname__} is no {kind.__name__} of the package lightning, on "
                "which train.py is built: what it does may come at another time, or to nothing. Of pytorch_lightning "
                "take the one in lightning.pytorch."
            )


def optimizer_of(config: DictConfig, model: Any) -> Any:
    """What makes the optimiser of a run: its own ``optimizer``, if there is one, in place of the model's."""
    return instantiate(config.optimizer) or model.optimizer


def make_module(config: DictConfig, model: Any, plan: Plan, metadata: Mapping[str, Any]) -> SegmentationModule:
    """Build the module that a run trains.

    Args:
        config: of the run.
        model: what its ``model`` builds: network, optimizer, scheduler and deep_supervision.
        plan: of the data.
        metadata: for the checkpoints.

    Raises:
        ValueError: the network or the loss does not fit the plan, the optimiser takes no such values, or what is to be
            frozen is not there.
    """
    module = SegmentationModule(
        plan=plan,
        configuration=config.data.configuration,
        network=model.network,
        optimizer=optimizer_of(config, model),
        scheduler=model.scheduler,
        deep_supervision=model.deep_supervision,
        compile=config.compile,
        cuda_graph=config.get("cuda_graph", False),  # configurations of earlier runs have none
        warmup_epochs=config.get("warmup_epochs") or 0,
        loss=instantiate(config.loss),
    )
    module.metadata.update(metadata)
    if config.get("freeze") is not None:
        _freeze(module, config)
    module.optimizer_and_schedule(config.trainer.max_epochs)
    return module


def _freeze(module: SegmentationModule, config: DictConfig) -> None:
    """Keep the weights that a configuration says, see `umamba.models.initial_weights.freeze`."""
    patterns = [config.freeze] if isinstance(config.freeze, str) else list(config.freeze)
    frozen = freeze(module.network, patterns)
    count = sum(parameter.numel() for name, parameter in module.network.named_parameters() if name in set(frozen))
    log.info("Frozen: %d weights of %.2f million values (%s).", len(frozen), count / 1e6, ", ".join(patterns))
    if config.get("init_from") is None and frozen:
        log.warning("freeze without init_from keeps weights as they are drawn at random.")


def check_batch_norm(config: DictConfig, module: SegmentationModule) -> None:
    """Refuse to join the statistics of a batch over devices where the network takes none.

    Raises:
        ValueError: sync_batchnorm is set, and there is no batch normalisation.
    """
    if config.get("sync_batchnorm") and not any(isinstance(part, _BatchNorm) for part in module.network.modules()):
        raise ValueError(
            f"trainer.sync_batchnorm=true is not taken here: {type(module.network).__name__} has no batch "
            "normalisation. Leave trainer.sync_batchnorm out."
        )


def fit(
    trainer: L.Trainer,
    module: L.LightningModule,
    datamodule: SegmentationDataModule | DummyDataModule,
    resume_from: Path | None = None,
) -> None:
    """Train to the end, or to the limit that is set; go on from a checkpoint, of which plain data alone are read.

    Raises:
        torch.OutOfMemoryError: a step does not fit the GPU; with what makes it smaller.
        SampleError: a patch could not be made; with its case.
        RuntimeError: a worker is gone; with the case that it was at. Or another process of the run is.
    """
    with ending_together() as reason_of_another:
        try:
            trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
        except LimitReached as limit:
            log.info("%s: the training ends there; the same call with a larger limit continues it.", limit)
        except torch.OutOfMemoryError as error:
            graphs = isinstance(module, SegmentationModule) and module.cuda_graph is True
            raise torch.OutOfMemoryError(_smaller_steps(datamodule, str(error), graphs)) from error
        except SampleError as error:
            raise SampleError(str(error)) from error  # by this project, which says it in a message
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            fault = fault_of_worker(error, [*getattr(datamodule, "at_work", {}).values()])
            if fault is None and trainer.world_size > 1 and _LOST.search(str(error)):
                said, noticed = reason_of_another(), str(error).splitlines()[0]
                fault = _OTHER_SAID.format(said) if said else _OTHER_GONE.format(trainer.world_size, noticed)
            if fault is None:
                raise
            raise RuntimeError(fault) from error
        finally:
            if isinstance(module, SegmentationModule):
                module.let_go_of_graphs()  # the test that may follow wants their memory


def _smaller_steps(datamodule: SegmentationDataModule | DummyDataModule, fault: str, graphs: bool) -> str:
    """What to do about a step for which the GPU's memory was too small."""
    plan, configuration = datamodule.plan, datamodule.plan_configuration
    size = configuration.batch_size
    planned = "" if plan.memory_gb is None else f" (planned for {plan.memory_gb:g} GB, as nnU-Net counts its own CNN)"
    fewer = ("cuda_graph=auto, " if graphs else "") + (f"data.batch_size={size // 2}, or " if size > 1 else "")
    smaller = "" if plan.memory_gb is None else f"={plan.memory_gb * 3 / 4:g}"
    return (
        f"A training step of batch size {size} with patches of {configuration.patch_size}{planned} needs more memory "
        f"than the GPU has free. Take {fewer}smaller patches by a lower data.planning.memory_gb{smaller}, and see with "
        f"nvidia-smi whether another process holds memory. The GPU says: {fault}"
    )


def check_precision(config: DictConfig) -> None:
    """Refuse, before any work, fp16 on a CPU, and bf16 on one that computes gradients of convolutions wrongly in it.

    With torch 2.13 and oneDNN on CPUs with avx512_bf16, parts of the weight gradient of small bf16 convolutions are
    never written: a training goes on with arbitrary numbers. So it is tried here. In place of mixed fp16 Lightning
    would take bf16 on a CPU, with a warning, and the run would be recorded as one of fp16.

    Raises:
        ValueError: the precision is one of these.
    """
    accelerator = str(config.get("accelerator", "auto"))
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and str(config.get("precision", "")) in ("16-mixed", "16"):
        raise ValueError(
            f"trainer.precision={config.precision}: on a CPU there is no training in mixed fp16. Leave "
            "trainer.precision out (a CPU takes 32-true), or take bf16-mixed."
        )
    if on_cpu and str(config.get("precision", "")).startswith("bf16") and not _bf16_gradients_are_right():
        raise ValueError(
            f"trainer.precision={config.precision}: with torch {torch.__version__} this CPU computes wrong "
            "gradients of convolutions in bfloat16. Leave trainer.precision out (a CPU takes 32-true)."
        )


def _bf16_gradients_are_right() -> bool:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 16, 3, 3, 3, generator=generator).requires_grad_()
    image = torch.randn(1, 16, 2, 2, 2, generator=generator)
    (exact,) = torch.autograd.grad(F.conv3d(image, weight, padding=1).square().sum(), weight)
    for _ in range(3):  # what is left unwritten holds something else every time
        with torch.autocast("cpu", torch.bfloat16):
            out = F.conv3d(image, weight, padding=1)
        (got,) = torch.autograd.grad(out.float().square().sum(), weight)
        if not (got - exact).norm() < 0.1 * exact.norm():
            return False
    return True


def check_last_checkpoint(path: Path, config: DictConfig, callbacks: Sequence[Callback]) -> None:
    """Refuse, before any work, a run whose test would find no checkpoint (else ValueError)."""
    if not config.train or not config.test or config.trainer.get("fast_dev_run"):
        return
    if not any(isinstance(callback, LastCheckpoint) and callback.path == path for callback in callbacks):
        raise ValueError(
            f"test=true needs {path}, which callbacks.last writes and this run leaves out. Set test=false, or leave "
            "callbacks.last as it is."
        )
