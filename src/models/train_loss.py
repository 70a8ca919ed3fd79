"""The mean loss of an epoch, of the steps that were taken and not skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class TrainLoss:
    """Mean loss of the optimizer steps that an epoch has taken, on this rank; skipped steps are counted apart.

    Args:
        total: sum over the steps taken of the mean loss of a step's batches.
        steps: number of steps taken.
        skipped: number of steps skipped.
    """

    def __init__(self, total: float = 0.0, steps: int = 0, skipped: int = 0) -> None:
        self.total: Tensor | float = total
        self.steps: Tensor | int = steps
        self.skipped: Tensor | int = skipped

    def update(self, losses: Sequence[Tensor], skipped: Tensor | bool) -> None:
        """Count one step, of one batch or (with accumulated gradients) several; stays on the losses' device.

        A step is skipped where `skipped` is not zero, which may be known to the device alone.
        """
        if isinstance(skipped, Tensor):
            taken = skipped == 0
            self.total = self.total + torch.where(taken, torch.stack(list(losses)).float().mean(), 0)
            self.steps = self.steps + taken
            self.skipped = self.skipped + ~taken
        elif skipped:
            self.skipped += 1
        else:
            self.total = self.total + torch.stack(list(losses)).float().mean()
            self.steps += 1

    def mean(self) -> Tensor | float:
        """Mean loss of the steps taken, of which there must be one."""
        return self.total / self.steps

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, the arguments of the constructor."""
        return {"total": float(self.total), "steps": int(self.steps), "skipped": int(self.skipped)}
