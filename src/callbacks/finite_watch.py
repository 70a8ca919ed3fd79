"""Watch for NaN and Inf: say in which layer they first appear, skip the step, give up when they persist."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


MIN_LOSS_SCALE = 1e-4  # fairseq's default of min_loss_scale: below it gradients vanish in float16


class FiniteWatch(L.Callback):
    """Skips optimizer steps whose gradients are not finite and names the first layer that produced such a value.

    NaN losses are the best-known complaint about U-Mamba under fp16. A skipped step leaves weights and momentum as
    they were, so training goes on with the next batch. Under fp16 single overflows of the scaled gradients are part of
    the method (the gradient scaler lowers its scale) and are not reported, but they are counted: a run in which no step
    succeeds any more ends whatever the precision.

    The host waits for the gradients once per step, as a gradient scaler does anyway.

    Args:
        patience: consecutive non-finite steps after which training stops with an error.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self.consecutive = 0
        self._images: list[Tensor] = []  # of the batches since the last optimizer step

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._images.append(batch["image"])

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        images, self._images = self._images, []
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self.consecutive = 0
            return
        self.consecutive += 1
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        network = module.get_submodule("network")
        with trainer.precision_plugin.forward_context():
            found = next(filter(None, (first_non_finite(network, image) for image in images)), None)
        where = found or "the loss or its gradient (every layer's output is finite)"
        if found or scaler is None:
            log.warning(
                "Step %d: non-finite gradients, first seen in %s; the step is skipped (%d in a row).",
                trainer.global_step, where, self.consecutive,
            )  # fmt: skip
        scale = scaler.get_scale() if scaler is not None else None
        if self.consecutive >= self.patience:
            reason = f"{self.patience} steps in a row had non-finite gradients"
        elif scale is not None and scale < MIN_LOSS_SCALE:
            reason = "too many steps had non-finite gradients, and the loss scale has collapsed"
        else:
            optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer leaves weights and momentum alone
            return
        scaled = "" if scale is None else f"; the loss scale is down to {scale:g}"
        raise RuntimeError(
            f"{reason}, first seen in {where}{scaled}. Train with trainer.precision=32-true or a lower "
            "model.optimizer.lr, or look at the data with the doctor."
        )


@torch.no_grad()
def first_non_finite(network: nn.Module, image: Tensor) -> str | None:
    """Name of the first place that is not finite for this input: the input, a weight, a leaf layer's output, or None.

    To be called under the training step's own autocast: float16 overflows where float32 does not.
    """
    if not torch.isfinite(image).all():
        return "the input image"
    for name, weight in network.named_parameters():
        if not torch.isfinite(weight).all():
            return f"weight {name!r}"
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
    devices = [image.device] if image.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):  # a layer that draws (dropout) must not change the next step
            output = network.forward(image)  # not through __call__, where a compiled network has no layers
    finally:
        for hook in hooks:
            hook.remove()
    check("", output)  # what the network computes outside of its layers
    if not found:
        return None
    return f"layer {found[0]!r}" if found[0] else "the network's output"
