"""A training on a GPU in which the host never waits for the device, bad steps included; pytest -m gpu."""

from __future__ import annotations

import functools
import itertools
import logging

import lightning as L
import pytest
import torch
from torch import nn

from umamba.callbacks.finite_watch import FiniteWatch
from umamba.models.fused_optimizer import fuse

pytestmark = pytest.mark.gpu
OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01),
}


class Module(L.LightningModule):
    def __init__(self, optimizer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))
        self.optimizer = optimizer
        self.seen = []

    def on_train_start(self) -> None:
        fuse(self.optimizers(use_pl_optimizer=False))

    def training_step(self, batch, batch_idx):
        self.seen.append(self.network[0].weight.detach().clone())
        return self.network(batch["image"]).float().square().mean()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class NoWaiting(L.Callback):
    """From the second step on, which has momentum, waiting is an error; not where a bad step is being explained."""

    def __init__(self, bad: int) -> None:
        self.bad = bad

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 1 and batch_idx != self.bad + 1 else "default")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_host_does_not_wait(optimizer, precision, tmp_path, caplog) -> None:
    bad, images = 3, [{"image": torch.randn(1, 32, 32)} for _ in range(8)]
    images[bad]["image"][0, 0, 0] = float("nan")
    module = Module(OPTIMIZERS[optimizer])
    trainer = L.Trainer(
        max_epochs=1, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[NoWaiting(bad), FiniteWatch()], default_root_dir=tmp_path,
        precision=precision,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        trainer.fit(module, torch.utils.data.DataLoader(images, batch_size=1, pin_memory=True))
    said = [record.getMessage() for record in caplog.records if "non-finite" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"Step {bad}:") and "the input image" in said[0]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(module.seen)]
    assert same == [i == bad for i in range(7)]
    assert trainer.optimizers[0].param_groups[0]["fused"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_under_fp16_with_clipping(optimizer, tmp_path) -> None:
    """Lightning refuses to clip for an optimizer that unscales by itself."""
    images = [{"image": torch.randn(1, 32, 32)} for _ in range(6)]
    module = Module(OPTIMIZERS[optimizer])
    trainer = L.Trainer(
        max_epochs=1, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[FiniteWatch()], default_root_dir=tmp_path, precision="16-mixed",
        gradient_clip_val=12,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(images, batch_size=1))
    assert not torch.equal(module.seen[0], module.seen[-1])
    assert all(p.isfinite().all() for p in module.parameters())
