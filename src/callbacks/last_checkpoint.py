"""last.ckpt: the state after the last epoch that was trained, whatever else is monitored or validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from umamba.callbacks.atomic_checkpoint import check_states
from umamba.callbacks.limits import is_over
from umamba.callbacks.trial import is_trial


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of every epoch.

    Lightning's ModelCheckpoint with a monitor writes its last checkpoint only where the monitored value has improved
    or was measured; a run is resumed and scored from here, so this one is written always. What was logged in the
    epoch reaches the loggers first: a run killed right after the checkpoint has no gap in its metrics.

    Args:
        dirpath: the run's folder of checkpoints.
    """

    def __init__(self, dirpath: str | Path) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.checked = False

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Before the first step, when every callback has begun, see what checkpoints will have to keep."""
        if not self.checked and not is_trial(trainer):
            self.checked = True
            check_states(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if is_trial(trainer):
            return
        log_epoch(trainer)
        trainer.save_checkpoint(self.path, weights_only=False)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save the network of a run of no epochs, as it was made."""
        if not is_trial(trainer) and not self.path.is_file():
            trainer.save_checkpoint(self.path, weights_only=False)


def log_epoch(trainer: L.Trainer) -> None:
    """Write what was logged in this epoch now, as Lightning does after the hooks of the epoch's end."""
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
    connector.on_epoch_end()
    loop._batches_that_stepped -= 1  # the row has the number of the epoch's last step
    connector.update_train_epoch_metrics()
    loop._batches_that_stepped += 1


def ended_by(
    checkpoint: str | Path,
    *,
    max_epochs: int | None,
    max_steps: int = -1,
    max_time: Any | None = None,
    stops_early: bool = False,
) -> str | None:
    """By what the run that wrote a checkpoint has trained as long as it should; None if it has not.

    Args:
        checkpoint: written by Lightning.
        max_epochs: the trainer's; None or -1 for no limit.
        max_steps: the trainer's; -1 for no limit.
        max_time: the trainer's, in any of its forms; None for no limit.
        stops_early: whether the run still has a callback that may stop it before these limits.

    Returns:
        "max_epochs", "max_steps", "max_time" or "early stopping".

    Raises:
        ValueError: it has trained longer than that, so that neither its weights nor its learning rates are those of a
            run of this length.
    """
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    epochs = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if max_epochs is not None and 0 <= max_epochs < epochs:
        raise ValueError(
            f"{checkpoint} was trained for {epochs} epochs, more than trainer.max_epochs={max_epochs}. Set "
            f"trainer.max_epochs to {epochs} or more to go on with it, or train anew in another run_dir."
        )
    found = {"max_epochs": epochs == max_epochs, "max_steps": 0 <= max_steps <= state["global_step"]}
    found["max_time"] = is_over(state, max_time)
    found["early stopping"] = stops_early and any(
        key.startswith(EarlyStopping.__qualname__) and kept["wait_count"] >= kept["patience"]
        for key, kept in state.get("callbacks", {}).items()
    )
    return next((limit for limit, reached in found.items() if reached), None)
