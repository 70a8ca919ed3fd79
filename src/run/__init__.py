"""What surrounds a training: its folder, record and lock, resuming, signals, sweeps, a W&B logger that never asks."""

from typing import Any

from src.run.provenance import ROOT, git_revision

__all__ = ["ROOT", "git_revision", "wandb_logger"]


def __getattr__(name: str) -> Any:
    if name == "wandb_logger":  # configs name it here; imported when asked for, since tools without lightning come by
        from src.run.wandb_log import wandb_logger

        return wandb_logger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
