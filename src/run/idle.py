"""Arguments of Lightning's Trainer that would do nothing in a run of this project, or that contradict one another."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping

from omegaconf import DictConfig

from umamba.typed import is_whole

log = logging.getLogger(__name__)

_OF_PREDICTION = "train.py tests and predicts without the Trainer, every case whole"
IDLE = {  # arguments that this project gives itself, or that nothing of it asks -> why
    "plugins": "the Trainer's plugins are those that write checkpoints whole and find the scheduler's processes; "
    "precision is chosen by trainer.precision, the strategy by trainer.strategy",
    "callbacks": "callbacks are entries of the group callbacks, such as +callbacks.mine._target_=...",
    "logger": "loggers are chosen by logger=..., and logger=null has none",
    "enable_checkpointing": "checkpoints are written by callbacks.last and callbacks.best, which null leaves out",
    "enable_progress_bar": "the bar is callbacks.progress, which null leaves out",
    "barebones": "it takes no callback and no logger, and so no checkpoint; callbacks=null logger=null leave out what "
    "a run can do without",
    "limit_test_batches": _OF_PREDICTION,
    "limit_predict_batches": _OF_PREDICTION,
    "use_distributed_sampler": "the data module shards each batch over the GPUs itself, and would do it twice",
    "enable_autolog_hparams": "loggers get the whole configuration from train.py",
    "model_registry": "checkpoints lie in the run's folder",
}  # fmt: skip
_LEAST = {  # whole numbers; -1 is for no limit
    "max_epochs": -1, "max_steps": -1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
}  # fmt: skip
_BATCHES = ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval")
_OFF_IF_FALSE = ("barebones", "use_distributed_sampler")  # the others say something by false too
_STOPPERS = ("EarlyStopping", "Timer")  # of Lightning's callbacks
_NOTHING = "nothing would be trained; trainer.max_epochs=0 keeps and tests a network as it was made"


def check_trainer(cfg: DictConfig) -> None:
    """See that what the Trainer is given acts (else ValueError).

    Args:
        cfg: As one call gives it, not as the run that it goes on with has stored it.
    """
    _check_numbers(cfg)
    for key, why in _idle(cfg):
        raise ValueError(f"trainer.{key}={cfg.trainer[key]} is not taken here: {why}. Leave trainer.{key} out.")


def _check_numbers(cfg: DictConfig) -> None:
    """Refuse what Lightning divides by, or counts with, once the data are there; by -1 it turns the loss round."""
    for key, least in _LEAST.items():
        value = cfg.trainer.get(key)
        if value is not None and not is_whole(value, least):
            raise ValueError(f"trainer.{key}={value}: expected a whole number, {least} or more.")
    for key in _BATCHES:
        value, batches = cfg.trainer.get(key), cfg.data.get("iterations_per_epoch")
        if isinstance(value, bool):  # which is taken for 1
            raise ValueError(f"trainer.{key}={str(value).lower()}: expected batches, or a share of them.")
        if value == 0 and key == "val_check_interval":
            raise ValueError(f"trainer.{key}=0: expected batches, a share of them, or null for once an epoch.")
        share = isinstance(value, float) and 0 < value < 1 and key != "limit_val_batches"
        if share and is_whole(batches, 1) and value * batches < 1:
            raise ValueError(
                f"trainer.{key}={value} is less than one of the {batches} batches of data.iterations_per_epoch."
            )


def say_idle(cfg: DictConfig) -> None:
    """Warn of what the Trainer is given in vain by the configuration that an earlier version has stored.

    Args:
        cfg: With which a run goes on.
    """
    for key, why in _idle(cfg):
        log.warning(
            "trainer.%s=%s, which %s/config.yaml has of the call that began the run, does nothing: %s.",
            key, cfg.trainer[key], cfg.run_dir, why,
        )  # fmt: skip


def _idle(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Argument, and why it would not act."""
    asked = cfg.trainer or {}
    for key, why in IDLE.items():
        value = asked.get(key)
        if value is not None and not (value is False and key in _OFF_IF_FALSE):
            yield key, why
    for key, limit in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        least, most = asked.get(key), asked.get(limit)
        if least is not None and not _may_end_early(cfg):
            yield key, "it holds back callbacks.early_stopping and trainer.max_time, of which this run has none"
        if isinstance(least, int) and isinstance(most, int) and 0 <= most < least:
            yield key, f"trainer.{limit}={most} ends the training before"
    folder = asked.get("default_root_dir")
    if folder is not None and os.path.abspath(str(folder)) != os.path.abspath(str(cfg.run_dir)):
        yield "default_root_dir", "what a run writes is in its folder, which run_dir=... says"
    if asked.get("gradient_clip_algorithm") is not None and not asked.get("gradient_clip_val"):
        yield "gradient_clip_algorithm", "without trainer.gradient_clip_val nothing is clipped"
    if asked.get("sync_batchnorm") and _one_device(cfg):
        yield "sync_batchnorm", "it joins the batches of several devices, and trainer.devices is one"
    if cfg.train and asked.get("limit_train_batches") == 0 and asked.get("max_epochs") != 0:
        yield "limit_train_batches", _NOTHING


def _one_device(cfg: DictConfig) -> bool:
    return str(cfg.trainer.get("devices")) == "1" and cfg.trainer.get("num_nodes", 1) == 1


def _may_end_early(cfg: DictConfig) -> bool:
    """Whether there is something that the least number of epochs or steps would hold back."""
    callbacks = [each for each in (cfg.get("callbacks") or {}).values() if isinstance(each, Mapping | DictConfig)]
    targets = [str(each.get("_target_")) for each in callbacks]
    own = [target for target in targets if not target.startswith(("umamba.", "lightning."))]  # who knows
    return bool(cfg.trainer.get("max_time") or own or any(target.endswith(_STOPPERS) for target in targets))
