"""Watch for NaN and Inf: say in which layer they first appear, skip the step, give up when they persist."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


class FiniteWatch(L.Callback):
    """Skips optimizer steps whose gradients are not finite and names the first layer that produced such a value.

    NaN losses are the best-known complaint about U-Mamba under fp16. A skipped step leaves weights and momentum as
    they were, so training goes on with the next batch.

    Args:
        patience: consecutive non-finite steps after which training stops with an error.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self.consecutive = 0
        self._image: Tensor | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._image = batch["image"]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            self.consecutive = 0
            return
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # under fp16 the gradient scaler meets overflows by design, and skips those steps itself
        self.consecutive += 1
        where = (
            first_non_finite(module.network, self._image) or "the loss or its gradient (every layer's output is finite)"
        )
        log.warning(
            "Step %d: non-finite gradients, first seen in %s; the step is skipped (%d in a row).",
            trainer.global_step, where, self.consecutive,
        )  # fmt: skip
        if self.consecutive >= self.patience:
            raise RuntimeError(
                f"{self.patience} steps in a row had non-finite gradients, first seen in {where}. Train with "
                "trainer.precision=32-true or a lower model.optimizer.lr, or look at the data with the doctor."
            )
        optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer leaves weights and momentum alone


@torch.no_grad()
def first_non_finite(network: nn.Module, image: Tensor) -> str | None:
    """Name of the first leaf layer whose output is not finite for this input, "input" or None."""
    if not torch.isfinite(image).all():
        return "the input image"
    found: list[str] = []

    def check(name: str, output: Any) -> None:
        tensors = output if isinstance(output, (list, tuple)) else [output]
        if not found and any(isinstance(t, Tensor) and not torch.isfinite(t).all() for t in tensors):
            found.append(name)

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: check(name, output))
        for name, layer in network.named_modules()
        if not any(layer.children())
    ]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return f"layer {found[0]!r}" if found else None
