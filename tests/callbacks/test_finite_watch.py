"""A NaN in training is named, skipped, and ends the run only when it persists."""

import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from umamba.callbacks.finite_watch import FiniteWatch, first_non_finite


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


def fit_scaled(module: Tiny, tmp_path, precision: str, patience: int = 20, scale: float = 65536.0) -> L.Trainer:
    """As `fit`, under autocast on the CPU; "16-mixed" with a gradient scaler, as on a GPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if precision == "16-mixed" else None
    plugin = MixedPrecision(precision, "cpu", scaler)
    data = torch.utils.data.DataLoader([{"image": torch.ones(2)} for _ in range(12)], batch_size=1)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[FiniteWatch(patience)], default_root_dir=tmp_path, gradient_clip_val=12,
        plugins=[plugin],
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_stops_too(precision: str, tmp_path) -> None:
    scale = ".*loss scale is down to" if precision == "16-mixed" else ""
    with pytest.raises(RuntimeError, match=f"5 steps in a row .* layer '1'{scale}"):
        fit_scaled(Tiny(set(range(2, 12))), tmp_path, precision, patience=5, scale=8.0)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_a_bad_step_under_mixed_precision_is_named_and_skipped(precision: str, tmp_path, caplog) -> None:
    module = Tiny({2})
    with caplog.at_level(logging.WARNING):
        fit_scaled(module, tmp_path, precision, scale=8.0)
    assert "layer '1'" in caplog.text
    assert torch.equal(module.seen[2], module.seen[3])
    assert not torch.equal(module.seen[3], module.seen[4])


def test_an_overflow_of_the_scaled_loss_is_the_scalers_business(tmp_path, caplog) -> None:
    module = Tiny(set())
    with caplog.at_level(logging.WARNING):
        trainer = fit_scaled(module, tmp_path, "16-mixed", scale=2.0**40)  # its gradients overflow in float16
    assert "non-finite" not in caplog.text
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**40
    assert torch.equal(module.seen[0], module.seen[1])


def test_a_collapsed_loss_scale_is_named(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="loss scale has collapsed, first seen in layer '1'.*down to"):
        fit_scaled(Tiny({1, 3, 5, 7, 9}), tmp_path, "16-mixed", scale=3e-4)  # never two in a row


def test_float16_overflow_is_seen_under_the_steps_autocast() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    nn.init.constant_(network[0].weight, 6e4)
    image = torch.ones(1, 2)
    assert first_non_finite(network, image) is None
    with torch.autocast("cpu", dtype=torch.float16):
        assert first_non_finite(network, image) == "layer '0'"


def test_a_weight_is_blamed_before_the_layers_behind_it() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    network[1].weight.data[0, 0] = float("nan")
    assert first_non_finite(network, torch.ones(1, 2)) == "weight '1.weight'"


def test_the_diagnosis_leaves_the_random_numbers_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    state = torch.get_rng_state()
    first_non_finite(network, torch.ones(1, 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_batch_of_an_accumulated_step_is_looked_at(tmp_path, caplog) -> None:
    module = Tiny(set())
    images = [{"image": torch.tensor([float("nan"), 0.0])}, {"image": torch.ones(2)}]
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[FiniteWatch()], default_root_dir=tmp_path, accumulate_grad_batches=2,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        trainer.fit(module, torch.utils.data.DataLoader(images, batch_size=1))
    assert "the input image" in caplog.text
