"""A NaN in training is named, skipped, and ends the run only when it persists."""

import logging

import lightning as L
import pytest
import torch
from torch import nn

from src.callbacks.finite_watch import FiniteWatch, first_non_finite


class Spoiler(nn.Module):
    """Passes its input on, or NaN where ``spoil`` is set."""

    spoil = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan") if self.spoil else x


class Tiny(L.LightningModule):
    def __init__(self, bad_steps: set[int]) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 2), Spoiler(), nn.Linear(2, 1))
        self.bad_steps = bad_steps
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        self.network[1].spoil = batch_idx in self.bad_steps
        self.seen.append(self.network[0].weight.detach().clone())
        return self.network(batch["image"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(module: Tiny, tmp_path, patience: int = 20) -> None:
    data = torch.utils.data.DataLoader([{"image": torch.randn(2)} for _ in range(6)], batch_size=1)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[FiniteWatch(patience)], default_root_dir=tmp_path, gradient_clip_val=12,
    )  # fmt: skip
    trainer.fit(module, data)


def test_a_bad_step_is_named_and_skipped(tmp_path, caplog) -> None:
    module = Tiny({2})
    with caplog.at_level(logging.WARNING):
        fit(module, tmp_path)
    assert "layer '1'" in caplog.text
    assert torch.equal(module.seen[2], module.seen[3])  # the bad step changed nothing
    assert not torch.equal(module.seen[3], module.seen[4])
    assert all(p.isfinite().all() for p in module.parameters())


def test_training_stops_when_it_persists(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="3 steps in a row .* layer '1'.*32-true"):
        fit(Tiny({1, 2, 3}), tmp_path, patience=3)


def test_the_input_is_blamed_first() -> None:
    assert first_non_finite(nn.Linear(2, 2), torch.tensor([float("inf"), 0])) == "the input image"
    assert first_non_finite(nn.Linear(2, 2), torch.zeros(2)) is None
