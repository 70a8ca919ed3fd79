"""Checkpoints that survive a kill: written beside the old one, then renamed over it."""

from __future__ import annotations

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
