"""Checkpoints that survive a kill, written beside the old one and renamed over it; and that may be moved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from umamba.files import atomic_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves next to the target and renames, which the file system does in one step.

    Lightning's own writer goes through the system's temporary folder; where that is another file system, its last
    step is a copy and can be interrupted.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        # Through a Python file: torch reports a full disk of a file that it opened itself without saying so
        with atomic_file(path) as beside, open(beside, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, *args, **options)
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and isinstance(state.get("dirpath"), str):
                _follow_folder(state, Path(os.path.realpath(path)).parent)
        return checkpoint


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
