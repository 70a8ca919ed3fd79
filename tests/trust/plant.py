"""Callbacks and layers that spoil a training on purpose: a value that is not finite, at a place and from a step on."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

PLACES = ("weights", "input", "loss", "layer")


class Plant(L.Callback):
    """Puts a value into one place of the training.

    Args:
        where: one of PLACES.
        value: what is planted.
        steps: batches (counted over all epochs) in which it is; weights stay as they were made.
    """

    def __init__(self, where: str, value: float, steps: tuple[int, ...]) -> None:
        self.where, self.value, self.steps = where, float(value), set(steps)
        self.batch = -1
        self.layer = ""

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self.layer, layer = next(
            (n, m) for n, m in module.network.named_modules() if isinstance(m, nn.Conv3d | nn.Conv2d)
        )
        self.parameter = layer.weight
        if self.where == "layer":
            layer.register_forward_hook(lambda _, __, output: self._spoilt(output) if self._now(module) else None)
        if self.where == "loss":
            loss = module.loss.forward
            module.loss.forward = lambda *a, **k: loss(*a, **k) * (self.value if self._now(module) else 1.0)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch += 1
        if self.batch in self.steps and self.where == "input":
            batch["image"].view(-1)[7] = self.value
        if self.batch in self.steps and self.where == "weights":
            with torch.no_grad():
                self.parameter.view(-1)[0] = self.value

    def _now(self, module: L.LightningModule) -> bool:
        return module.training and self.batch in self.steps

    def _spoilt(self, output: Tensor) -> Tensor:
        mask = torch.zeros_like(output, dtype=torch.bool)
        mask.view(-1)[5] = True
        return output.masked_fill(mask, self.value)
