"""Checkpoints that survive a kill, written beside the old one and renamed over it; and that may be moved."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from umamba.files import atomic_file

_NO_DATA = (pickle.PickleError, AttributeError, TypeError)  # the last two of what Python cannot pickle
_PLAIN = "such a state may hold tensors, numbers, texts, lists and dictionaries alone"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves next to the target and renames, which the file system does in one step.

    Lightning's own writer goes through the system's temporary folder; where that is another file system, its last
    step is a copy and can be interrupted. What could not be read back is refused at once, and not when the training has
    ended: checkpoints are read without running code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        # Through a Python file: torch reports a full disk of a file that it opened itself without saying so
        with atomic_file(path) as beside, open(beside, "wb") as file:
            try:
                torch.save(checkpoint, file)
                file.flush()
                torch.load(beside, map_location="cpu", weights_only=True, mmap=True)
            except _NO_DATA as error:
                raise ValueError(
                    f"The checkpoint {path} could not be read back, and is not kept: {_what_is_no_data(error)}. An "
                    f"optimiser, a schedule or a callback keeps it; {_PLAIN}."
                ) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, *args, **options)
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and isinstance(state.get("dirpath"), str):
                _follow_folder(state, Path(os.path.realpath(path)).parent)
        return checkpoint


def check_states(trainer: L.Trainer) -> None:
    """Refuse what no checkpoint will be able to keep, as far as it is there before the first step.

    Raises:
        ValueError: The state of a callback, an optimiser or a schedule is no plain data; names it.
    """
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    for kept in [*trainer.callbacks, *trainer.optimizers, *schedules]:  # type: ignore[attr-defined]
        state = kept.state_dict()
        if isinstance(kept, torch.optim.Optimizer):
            state = state["param_groups"]  # what it has of the weights is as large as they are, and made by its steps
        try:
            torch.save(state, buffer := io.BytesIO())
            buffer.seek(0)
            torch.load(buffer, map_location="cpu", weights_only=True)
        except _NO_DATA as error:
            raise ValueError(
                f"{type(kept).__module__}.{type(kept).__qualname__} has a state that no checkpoint can keep: "
                f"{_what_is_no_data(error)}. Change what its state_dict gives: {_PLAIN}."
            ) from error


def _what_is_no_data(error: Exception) -> str:
    """What torch says that it would not write or load."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it holds a {found[1]}" if found else str(error).splitlines()[0]


def _follow_folder(state: dict[str, Any], folder: Path) -> None:
    """Have the state of a ModelCheckpoint name the files that were moved with the checkpoint that it is read from.

    Left to itself, Lightning forgets which score its best checkpoint had once the run's folder has moved, and
    overwrites it with the next one, be that worse.
    """
    old = state["dirpath"]

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path and str(Path(path).parent) == old else path

    best = state.get("best_model_path") or ""
    if old == str(folder) or not best or moved(best) == best or not Path(moved(best)).is_file():
        return
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state.get(key) or "")
    state["best_k_models"] = {moved(path): score for path, score in (state.get("best_k_models") or {}).items()}
    state["dirpath"] = str(folder)
