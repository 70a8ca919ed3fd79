"""Whether a run is one that leaves nothing behind."""

from __future__ import annotations

import lightning as L


def is_trial(trainer: L.Trainer) -> bool:
    """Whether `trainer` was made with fast_dev_run, of which nothing is kept."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # the Trainer is given it outside of its class
