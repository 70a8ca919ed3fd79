"""Batches that cost nothing: one random batch that lies on the device, given again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch

from umamba.datamodules.sampling import share_of
from umamba.planning.configuration import Configuration
from umamba.planning.plan import Plan


class DummyDataModule(L.LightningDataModule):
    """What `SegmentationDataModule` gives, without any data: to time a training that never waits for its batches.

    As nnU-Net's benchmark without data loading has it: images uniform in [0, 1), labels uniform over the classes.

    Args:
        plan: Says how many channels and classes there are.
        configuration: The plan's that is trained; has patch and batch size.
        iterations_per_epoch: Training batches per epoch.
        val_iterations: Validation batches per epoch.
    """

    def __init__(
        self, plan: Plan, configuration: Configuration, *, iterations_per_epoch: int, val_iterations: int
    ) -> None:
        super().__init__()
        self.plan, self.plan_configuration = plan, configuration
        self.iterations_per_epoch, self.val_iterations = iterations_per_epoch, val_iterations

    def train_dataloader(self) -> RepeatedBatch:
        """The batch, `iterations_per_epoch` times."""
        return RepeatedBatch(self._batch(), self.iterations_per_epoch)

    def val_dataloader(self) -> RepeatedBatch:
        """The batch, `val_iterations` times."""
        return RepeatedBatch(self._batch(), self.val_iterations)

    def _batch(self) -> dict[str, Any]:
        assert self.trainer is not None  # which asks for the loaders
        device = self.trainer.strategy.root_device
        size = share_of(self.plan_configuration.batch_size, self.trainer.global_rank, self.trainer.world_size)
        patch = self.plan_configuration.patch_size
        return {
            "image": torch.rand(size, self.plan.num_inputs(self.plan_configuration.name), *patch, device=device),
            "label": torch.randint(self.plan.num_classes, (size, *patch), dtype=torch.int16, device=device),
            "case": ["dummy"] * size,
        }


class RepeatedBatch:
    """A loader that gives one batch again and again."""

    def __init__(self, batch: dict[str, Any], count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.count):
            yield self.batch
