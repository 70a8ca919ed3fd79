"""Watch for NaN and Inf: say in which layer they first appear, skip the step, give up when they persist."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from umamba.typed import is_whole

log = logging.getLogger(__name__)


MIN_LOSS_SCALE = 1e-4  # fairseq's default of min_loss_scale: below it gradients vanish in float16


class FiniteWatch(L.Callback):
    """Skips optimizer steps whose gradients are not finite and names the first layer that produced such a value.

    NaN losses are the best-known complaint about U-Mamba under fp16. A skipped step leaves weights and momentum as
    they were, so training goes on with the next batch. Under fp16 single overflows of the scaled gradients are part of
    the method (the gradient scaler lowers its scale) and are not reported, but they are counted: a run in which no step
    succeeds any more ends whatever the precision.

    With a fused optimizer, as on a GPU, the host waits for nothing: the device skips the step, and the host hears of it
    before the next one, when the weights are still the same. Otherwise it waits for the gradients once per step, under
    fp16 as the gradient scaler does anyway.

    Sets ``gradient_norm`` of the module, the total norm of the step's gradients, so that clipping need not form it
    again; and on the optimizer ``found_inf``, 1 where the device skips the step and 0 elsewhere, or takes it away.

    Args:
        patience: consecutive non-finite steps after which training stops with an error, 1 or more.

    Raises:
        ValueError: `patience` is no such number.
    """

    def __init__(self, patience: int = 20) -> None:
        if not is_whole(patience, 1):
            raise ValueError(f"callbacks.finite.patience is {patience!r}; expected a whole number of steps, 1 or more.")
        self.patience = patience
        self.consecutive = 0
        self._images: list[Tensor] = []  # of the batches since the last optimizer step
        self._unheard: _Step | None = None  # decided on the device

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._images.append(batch["image"])

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._hear(trainer, module)
        images, self._images = self._images, []
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        module.gradient_norm = norm
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None and skips_by_itself(optimizer):
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            self._unheard = _Step(trainer.global_step, images, FromDevice(optimizer.found_inf))  # type: ignore[attr-defined]
            return
        vars(optimizer).pop("found_inf", None)
        if torch.isfinite(norm):
            self.consecutive = 0
            return
        self._report(trainer, module, trainer.global_step, images, scaler)
        optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer leaves weights and momentum alone

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._hear(trainer, module)

    def _hear(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """What became of the last step that the device decided; its batch and the weights are as they were then."""
        step, self._unheard = self._unheard, None
        if step is None:
            return
        if step.skipped:
            self._report(trainer, module, step.number, step.images, None)
        else:
            self.consecutive = 0

    def _report(
        self, trainer: L.Trainer, module: L.LightningModule, number: int, images: list[Tensor], scaler: Any
    ) -> None:
        """Count and name a skipped step.

        Raises:
            RuntimeError: it was one too many.
        """
        self.consecutive += 1
        network = module.get_submodule("network")
        with trainer.precision_plugin.forward_context():
            found = next(filter(None, (first_non_finite(network, image) for image in images)), None)
        loss = f"the loss ({module.loss_name})" if hasattr(module, "loss_name") else "the loss"
        where = found or f"{loss} or its gradient (every layer's output is finite)"
        if found or scaler is None:
            log.warning(
                "Step %d: non-finite gradients, first seen in %s; the step is skipped (%d in a row).",
                number, where, self.consecutive,
            )  # fmt: skip
        scale = scaler.get_scale() if scaler is not None else None
        if self.consecutive >= self.patience:
            reason = f"{self.patience} steps in a row had non-finite gradients"
        elif scale is not None and scale < MIN_LOSS_SCALE:
            reason = "too many steps had non-finite gradients, and the loss scale has collapsed"
        else:
            return
        scaled = "" if scale is None else f"; the loss scale is down to {scale:g}"
        raise RuntimeError(
            f"{reason}, first seen in {where}{scaled}. Train with trainer.precision=32-true or a lower "
            "model.optimizer.lr, or look at the data with the doctor."
        )


def skips_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of this optimizer does nothing, in any of its state, where ``optimizer.found_inf`` is 1.

    The kernels of torch's fused optimizers do. But SGD takes its first step without momentum and makes the momentum
    then; skipped, that step would leave behind what memory held before.
    """
    groups = optimizer.param_groups
    starts = not optimizer.state and any(group.get("momentum") for group in groups)
    return all(group.get("fused") for group in groups) and not starts


@dataclass
class _Step:
    """An optimizer step and its batches, until the host has heard from the device whether it was skipped.

    Mostly it has when it is asked: the next step's passes are behind it.
    """

    number: int
    images: list[Tensor]
    skipped: FromDevice


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


class FromDevice:
    """A copy of one number on its way to the host; whether that is not 0 waits until the device has got that far."""

    def __init__(self, number: Tensor) -> None:
        self._copy = torch.empty(number.shape, pin_memory=number.is_cuda).copy_(number, non_blocking=True)
        self._arrived = torch.cuda.Event() if number.is_cuda else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(number.device))

    def __bool__(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._copy)
