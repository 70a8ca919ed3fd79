"""The LightningModule that trains any network of the benchmark with nnU-Net's protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from umamba.callbacks.csv_log import ResumableCSVLogger
from umamba.models.build import build_network, check_planned_blocks
from umamba.models.build_loss import build_loss, segmentation_loss
from umamba.models.device_memory import use_expandable_segments
from umamba.models.fused_optimizer import fuse
from umamba.models.gradient_exchange import GradientExchange
from umamba.models.graph_obstacles import obstacle_of_layers, obstacle_of_strategy
from umamba.models.losses import DeepSupervision
from umamba.models.pseudo_dice import PseudoDice
from umamba.models.rank_step_graph import RankGraphedLoss
from umamba.models.schedules import make_optimizer_and_schedule
from umamba.models.step_graph import WORTH, GraphedLoss
from umamba.models.train_loss import TrainLoss
from umamba.planning.plan import Plan
from umamba.typed import is_whole

log = logging.getLogger(__name__)

EMA_DECAY = 0.9  # per epoch; nnU-Net, which validates after every one: new = 0.9 * old + 0.1 * epoch


class SegmentationModule(L.LightningModule):
    """A loss with deep supervision; logs it and the pseudo Dice; carries the plan into the checkpoint.

    Args:
        plan: plan of the data set; `configuration` names the one of its configurations that is trained.
        configuration: "2d", "3d_fullres" or "3d_lowres".
        network: constructor taking the topology as keywords, see `build_network`.
        optimizer: ``optimizer(parameters)`` -> torch optimizer.
        scheduler: ``scheduler(optimizer, max_epochs=...)`` -> scheduler stepped once per epoch.
        deep_supervision: whether the network returns, and the loss uses, all decoder resolutions.
        compile: torch.compile the network.
        cuda_graph: replay training steps from CUDA graphs; "auto" where that is possible and pays.
        warmup_epochs: in which the learning rate rises linearly, before the schedule begins.
        loss: makes the loss of one output, see `build_loss`; nnU-Net's Dice + cross-entropy if none is given.

    Attributes:
        loss_name: what to call the loss in a log.
        metadata: plain data stored in every checkpoint beside the weights (resolved config, provenance).

    Raises:
        ValueError: network or loss do not fit the plan, cuda_graph is none of "auto", true and false, or warmup_epochs
            is no number of epochs.
    """

    dice_ema: Tensor  # of the foreground classes, NaN before the first validation

    def __init__(
        self,
        *,
        plan: Plan,
        configuration: str,
        network: Callable[..., nn.Module],
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        deep_supervision: bool = True,
        compile: bool = False,
        cuda_graph: bool | str = "auto",
        warmup_epochs: int = 0,
        loss: Callable[..., nn.Module] = segmentation_loss,
    ) -> None:
        super().__init__()
        if not is_whole(warmup_epochs):
            raise ValueError(f"warmup_epochs is {warmup_epochs!r}; expected a whole number, 0 or more, or null.")
        self.warmup_epochs = warmup_epochs
        if cuda_graph not in ("auto", True, False):
            raise ValueError(f"cuda_graph is auto, true or false, but got {cuda_graph!r}.")
        self.plan = plan
        self.configuration = configuration
        self.metadata: dict[str, Any] = {}
        self.network = build_network(network, plan, configuration, deep_supervision)
        check_planned_blocks(self.network, plan, configuration)
        if compile:
            self.network.compile()  # in place, so that state_dict keeps its names
        self.compiled, self.cuda_graph = compile, cuda_graph
        self._training_loss: Callable[[Tensor, Tensor], Tensor] = self._loss_of
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        regions, ignored = [region.labels for region in plan.regions], plan.ignore_label
        of_one = build_loss(
            loss,
            num_classes=plan.num_classes,
            batch_dice=plan.configuration(configuration).batch_dice,
            ignore_label=ignored,
            regions=regions,
        )
        self.loss, self.loss_name = DeepSupervision(of_one), str(of_one.name)
        self.pseudo_dice = PseudoDice(plan.num_classes, ignored, regions)
        self.class_names = [*plan.foreground]
        if "ema" in self.class_names:
            raise ValueError(
                "A class is called ema, and so val/dice_ema, by which the best checkpoint is chosen, would be of that "
                "class too. Call it otherwise in dataset.json."
            )
        self.register_buffer("dice_ema", torch.tensor(float("nan")))
        self._last_validation: float | None = None  # epochs trained when the EMA was last updated
        self._step_losses: list[Tensor] = []  # of the batches since the last optimizer step
        self._train_loss = TrainLoss()
        self.gradient_norm: Tensor | None = None  # of the step's gradients, where FiniteWatch has formed it

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) float -> logits (B, K, *S), or a list of them, highest resolution first."""
        return self.network(image)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            use_expandable_segments(self.trainer.strategy.root_device)

    def on_train_start(self) -> None:
        for logger in self.loggers:
            if isinstance(logger, ResumableCSVLogger):
                logger.begin(self.trainer)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)  # as configure_optimizers gives it
        fuse(optimizer)
        self.let_go_of_graphs()
        obstacle = self._obstacle_to_graphs()
        if obstacle is None:
            required, exchange = self.cuda_graph is True, self._exchange_over_ranks()
            self._training_loss = (
                GraphedLoss(self._loss_of, self.network.parameters(), required)
                if exchange is None
                else RankGraphedLoss(self.network, self.loss, exchange, required)
            )
        elif self.cuda_graph is True:
            raise ValueError(f"cuda_graph=true is not possible: {obstacle}. Set cuda_graph=auto or false.")
        elif self.device.type == "cuda":
            log.info("Training steps launch their kernels singly, not as CUDA graphs: %s.", obstacle)

    def on_train_end(self) -> None:
        self.let_go_of_graphs()

    def let_go_of_graphs(self) -> None:
        """Launch the kernels of training steps singly from now on, which frees the memory that graphs hold."""
        self._training_loss = self._loss_of

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self._training_loss(batch["image"], batch["label"])
        self._step_losses.append(loss.detach())
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Before the next forward pass, which would have to save a graph's gradients from being written over
        self.network.zero_grad(set_to_none=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # FiniteWatch, which runs before, marks a step that the device may skip, and from one that is to be skipped
        # otherwise it takes the gradients away.
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is None:
            skipped = all(parameter.grad is None for parameter in self.network.parameters())
        self._train_loss.update(self._step_losses, skipped)
        self._step_losses = []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's clipping; by the norm that FiniteWatch has formed, if it is that of whole, unscaled gradients."""
        norm, self.gradient_norm = self.gradient_norm, None
        whole = isinstance(self.trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
        scaled = getattr(optimizer, "_step_supports_amp_scaling", False)
        by_norm = (gradient_clip_val or 0) > 0 and gradient_clip_algorithm in (None, "norm")
        if norm is not None and gradient_clip_val and by_norm and whole and not scaled:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), gradient_clip_val, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_end(self) -> None:
        if self._train_loss.steps:  # as many on every rank, which skip the same steps
            self.log("train/loss", self._train_loss.mean(), prog_bar=True, sync_dist=True)
        self.log("train/skipped_steps", float(self._train_loss.skipped))
        self._train_loss = TrainLoss()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Returns the logits (B, K, *S), for callbacks that show them."""
        outputs = self(batch["image"])
        loss = self.loss(outputs, batch["label"])
        # The mean over ranks is the whole batch's, however many samples each of them has.
        self.log("val/loss", loss, sync_dist=True, prog_bar=True, batch_size=1)
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        self.pseudo_dice.update(logits, batch["label"])
        return logits

    def on_validation_epoch_end(self) -> None:
        dice = self.pseudo_dice.compute()[1:]  # (K-1,), the foreground classes
        self.pseudo_dice.reset()
        mean = dice.nanmean()
        if not self.trainer.sanity_checking and mean.isfinite():
            self._update_ema(mean)
        self.log("val/dice", mean, prog_bar=True)
        self.log("val/dice_ema", self.dice_ema.clone())
        self.log_dict({f"val/dice_{name}": value for name, value in zip(self.class_names, dice, strict=True)})

    def optimizer_and_schedule(
        self, max_epochs: int | None
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Both for the weights that are trained, for a training of this many epochs (else ValueError)."""
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return make_optimizer_and_schedule(
            self.make_optimizer, self.make_scheduler, trainable, max_epochs, self.warmup_epochs
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer, scheduler = self.optimizer_and_schedule(self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        train_loss = self._train_loss.state_dict()
        if self.trainer.world_size > 1:  # one checkpoint for all: each goes on from the mean of what they had
            # Not self.device, which is the CPU once the training has ended, where NCCL sums nothing
            total = torch.tensor(train_loss["total"], device=self.trainer.strategy.root_device)
            train_loss["total"] = float(self.trainer.strategy.reduce(total, reduce_op="mean"))
        progress = {"last_validation": self._last_validation, "train_loss": train_loss}
        checkpoint.update(self.metadata, plan=self.plan.to_dict(), configuration=self.configuration, progress=progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint.get("progress")  # checkpoints of earlier versions have none
        if progress is not None:
            self._last_validation = progress["last_validation"]
            self._train_loss = TrainLoss(**progress["train_loss"])

    def _loss_of(self, image: Tensor, label: Tensor) -> Tensor:
        return self.loss(self.network(image), label)

    def _obstacle_to_graphs(self) -> str | None:
        """Why training steps are not replayed from graphs, or None."""
        trainer = self.trainer
        if not self.cuda_graph:
            return "cuda_graph=false"
        if self.device.type != "cuda":
            return f"the device is {self.device.type}"
        obstacle = obstacle_of_strategy(trainer.strategy)
        if obstacle is not None:
            return obstacle
        if self.cuda_graph == "auto" and isinstance(trainer.strategy, DDPStrategy):
            return "of several devices only with cuda_graph=true, until it has been timed with large networks"
        if self.compiled:
            return "compile=true"
        if torch.is_anomaly_enabled():
            return "trainer.detect_anomaly=true"
        steps = trainer.estimated_stepping_batches - trainer.global_step
        if self.cuda_graph == "auto" and steps < WORTH:
            return f"{max(steps, 0):g} more steps do not pay for making them, which takes {WORTH}"
        return obstacle_of_layers(self.network, self.loss)

    def _exchange_over_ranks(self) -> Callable[[], GradientExchange] | None:
        """Of a training with DistributedDataParallel: makes what takes its place where steps are replayed."""
        wrapped = self.trainer.strategy.model
        if not isinstance(wrapped, DistributedDataParallel):
            return None
        # Which is false while gradients of several batches add up
        return lambda: GradientExchange(self.network, lambda: wrapped.require_backward_grad_sync)

    def _update_ema(self, dice: Tensor) -> None:
        loop = self.trainer.fit_loop
        done: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # not in the declared base class
        now = done + loop.epoch_loop.batch_progress.current.ready / loop.max_batches
        epochs = 1.0 if self._last_validation is None else now - self._last_validation
        decay = EMA_DECAY**epochs
        self.dice_ema.copy_(dice if self.dice_ema.isnan() else decay * self.dice_ema + (1 - decay) * dice)
        self._last_validation = now
