"""A W&B logger that neither asks nor stops a run, and that continues the run's own record."""

from __future__ import annotations

import logging
import os
import secrets
from argparse import Namespace
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from umamba.files import write_text

log = logging.getLogger(__name__)

_DATA_DIR = "WANDB_DATA_DIR"
_staged: str | None = None  # what this module has put there
_OFFLINE = "Upload later with `wandb sync`."


class ForgivingWandbLogger(WandbLogger):
    """Lightning's WandbLogger, going on offline where the server cannot be reached or refuses the key.

    Where W&B fails later on (its own process was killed, its disk is full), the training goes on without it.
    """

    _lost = False  # whether W&B has failed since it was started

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        import wandb

        try:
            return super().experiment
        except wandb.errors.Error as error:
            if self._wandb_init.get("mode") == "offline":
                raise
            log.warning("W&B cannot be used (%s): logging offline. %s", error, _OFFLINE)
            self._wandb_init["mode"] = "offline"
            wandb.teardown()  # its service still holds the run's id
            return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See Lightning's."""
        self._try(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """See Lightning's."""
        self._try(super().log_hyperparams, params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """See Lightning's."""
        self._try(super().finalize, status)

    def _try(self, act: Callable[..., None], *arguments: Any) -> None:
        if self._lost:
            return
        try:
            act(*arguments)
        except Exception as error:  # W&B's own kinds, sockets, disk: none of them may end a training
            self._lost = True
            log.warning(
                "W&B has failed (%s: %s) and gets nothing more; the run goes on. Its metrics are in metrics.csv, what "
                "W&B had before is in %s.", type(error).__name__, error, Path(self.save_dir or ".") / "wandb",
            )  # fmt: skip


def has_wandb_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment or in the user's netrc."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    if "prompt" in signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # of releases that cannot be asked without a prompt


def wandb_logger(*, save_dir: str, **arguments: Any) -> WandbLogger:
    """Lightning's WandbLogger, offline where there is no API key or no network, so that it never prompts or blocks.

    A run has one id, kept in ``<save_dir>/wandb_id``: when it is resumed, so is its record. ``WANDB_MODE`` is honoured.
    Offline runs are uploaded later with ``wandb sync <run folder>/wandb/offline-run-*``.
    """
    import wandb

    _stage_in(Path(save_dir) / "wandb")
    mode = os.environ.get("WANDB_MODE")
    if mode is None and not has_wandb_key():
        log.warning("No W&B API key: logging offline. %s `wandb login` sets a key.", _OFFLINE)
        mode = "offline"
        arguments |= {"offline": True, "mode": mode}  # wandb has read WANDB_MODE by now, which offline would set
    # After the network is lost, finish() would wait for it for days. Offline W&B has nothing to say.
    settings = wandb.Settings(init_timeout=30, finish_timeout=60, silent=mode == "offline")
    tags = arguments.pop("tags", None) or ()
    tags = [tags] if isinstance(tags, str) else list(tags)
    logger = ForgivingWandbLogger(
        save_dir=save_dir, id=_run_id(Path(save_dir)), settings=settings, tags=tags, **arguments
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it always, and W&B warns of it
    return logger


def _stage_in(folder: Path) -> None:
    """Keep the files of W&B's tables in the run's folder, not in the user's home, unless the user says where."""
    global _staged
    if os.environ.get(_DATA_DIR) in (None, _staged):
        os.environ[_DATA_DIR] = _staged = str(folder.absolute())


def _run_id(folder: Path) -> str:
    path = folder / "wandb_id"
    if not path.is_file():
        write_text(secrets.token_hex(4) + "\n", path)
    return path.read_text(encoding="utf-8").strip()
