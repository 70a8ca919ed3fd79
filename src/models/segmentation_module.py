"""The LightningModule that trains any network of the benchmark with nnU-Net's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from src.models.build import build_network
from src.models.losses import DeepSupervision, DiceCELoss
from src.models.pseudo_dice import PseudoDice
from src.planning.plan import Plan

EMA_DECAY = 0.9  # nnU-Net: new = 0.9 * old + 0.1 * epoch


class SegmentationModule(L.LightningModule):
    """Dice + cross-entropy with deep supervision; logs loss and pseudo Dice; carries the plan into the checkpoint.

    Args:
        plan: plan of the data set; `configuration` names the one of its configurations that is trained.
        configuration: "2d", "3d_fullres" or "3d_lowres".
        network: constructor taking the topology as keywords, see `build_network`.
        optimizer: ``optimizer(parameters)`` -> torch optimizer.
        scheduler: ``scheduler(optimizer, max_epochs=...)`` -> scheduler stepped once per epoch.
        deep_supervision: whether the network returns, and the loss uses, all decoder resolutions.
        metadata: plain data stored in every checkpoint beside the weights (resolved config, provenance).
        compile: torch.compile the network.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        configuration: str,
        network: Callable[..., nn.Module],
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        deep_supervision: bool = True,
        metadata: Mapping[str, Any] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.configuration = configuration
        self.metadata = dict(metadata or {})
        self.network = build_network(network, plan, configuration, deep_supervision)
        if compile:
            self.network.compile()  # in place, so that state_dict keeps its names
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        batch_dice = plan.configuration(configuration).batch_dice
        self.loss = DeepSupervision(DiceCELoss(batch_dice, plan.ignore_label))
        self.pseudo_dice = PseudoDice(plan.num_classes, plan.ignore_label)
        self.class_names = [name for name, value in sorted(plan.labels.items(), key=lambda item: item[1])][1:]
        self.register_buffer("dice_ema", torch.tensor(float("nan")))

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) float -> logits (B, K, *S), or a list of them, highest resolution first."""
        return self.network(image)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(self(batch["image"]), batch["label"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        outputs = self(batch["image"])
        loss = self.loss(outputs, batch["label"])
        self.log("val/loss", loss, sync_dist=True, prog_bar=True, batch_size=len(batch["image"]))
        self.pseudo_dice.update(outputs if isinstance(outputs, Tensor) else outputs[0], batch["label"])

    def on_validation_epoch_end(self) -> None:
        dice = self.pseudo_dice.compute()
        self.pseudo_dice.reset()
        mean = dice.nanmean()
        if not self.trainer.sanity_checking and mean.isfinite():
            ema = mean if self.dice_ema.isnan() else EMA_DECAY * self.dice_ema + (1 - EMA_DECAY) * mean
            self.dice_ema.copy_(ema)
        self.log("val/dice", mean, prog_bar=True)
        self.log("val/dice_ema", self.dice_ema.clone())
        self.log_dict({f"val/dice_{name}": value for name, value in zip(self.class_names, dice, strict=True)})

    def configure_optimizers(self) -> dict[str, Any]:
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(trainable)
        scheduler = self.make_scheduler(optimizer, max_epochs=self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.metadata, plan=self.plan.to_dict(), configuration=self.configuration)
