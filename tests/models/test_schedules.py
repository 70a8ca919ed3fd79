"""The learning rate is a function of the epoch and of the run's present length."""

from __future__ import annotations

import functools
import math

import lightning as L
import pytest
import torch

from umamba.models.schedules import cosine, make_optimizer_and_schedule, poly


class Tiny(L.LightningModule):
    """One weight; notes the learning rate of every step."""

    def __init__(self, schedule) -> None:
        super().__init__()
        self.network = torch.nn.Linear(1, 1)
        self.schedule = schedule
        self.rates: list[tuple[int, float]] = []

    def training_step(self, batch, batch_idx):
        self.rates.append((self.current_epoch, self.optimizers().param_groups[0]["lr"]))
        return self.network(batch).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": self.schedule(optimizer, max_epochs=self.trainer.max_epochs)}]


def closed_form(name: str, epoch: int, length: int) -> float:
    if name == "poly":
        return 0.1 * (1 - epoch / length) ** 0.9
    return 1e-6 + (0.1 - 1e-6) * 0.5 * (1 + math.cos(math.pi * epoch / length))


def fit(module: Tiny, folder, epochs: int, ckpt_path=None, **options) -> L.Trainer:
    data = torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=1)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


class SaveAfter(L.Callback):
    """Saves a checkpoint at the end of one epoch, as a run that is killed then has left it."""

    def __init__(self, epoch: int, path) -> None:
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer, module) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("name", ["poly", "cosine"])
@pytest.mark.parametrize("length", [3, 4, 6, 40])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_has_the_rates_of_its_present_length(name: str, length: int, accumulate: int, tmp_path) -> None:
    schedule = {"poly": poly, "cosine": cosine}[name]
    options = {"accumulate_grad_batches": accumulate}
    path = tmp_path / "a.ckpt"
    first = Tiny(schedule)
    fit(first, tmp_path, 4, callbacks=[SaveAfter(1, path)], **options)
    assert first.rates == [(epoch, pytest.approx(closed_form(name, epoch, 4))) for epoch in range(4) for _ in range(4)]
    resumed = Tiny(schedule)
    fit(resumed, tmp_path, length, path, **options)
    expected = [(epoch, closed_form(name, epoch, length)) for epoch in range(2, length) for _ in range(4)]
    assert resumed.rates == [(epoch, pytest.approx(rate)) for epoch, rate in expected]


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_a_finished_run_goes_on_when_it_is_made_longer(name: str, tmp_path) -> None:
    schedule = {"poly": poly, "cosine": cosine}[name]
    fit(Tiny(schedule), tmp_path, 2, callbacks=[SaveAfter(1, tmp_path / "a.ckpt")])
    resumed = Tiny(schedule)
    fit(resumed, tmp_path, 5, tmp_path / "a.ckpt")
    assert resumed.rates[::4] == [(epoch, pytest.approx(closed_form(name, epoch, 5))) for epoch in (2, 3, 4)]


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (poly, functools.partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=4, power=0.9)),
        (cosine, functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=4, eta_min=1e-6)),
    ],
)
def test_checkpoints_with_torchs_schedules_are_continued(ours, torchs, tmp_path) -> None:
    path = tmp_path / "old.ckpt"
    fit(Tiny(lambda optimizer, max_epochs: torchs(optimizer)), tmp_path, 4, callbacks=[SaveAfter(2, path)])
    resumed = Tiny(ours)
    fit(resumed, tmp_path, 8, path)
    expected = [(epoch, closed_form(ours.__name__, epoch, 8)) for epoch in range(3, 8)]
    assert resumed.rates[::4] == [(epoch, pytest.approx(rate)) for epoch, rate in expected]


@pytest.mark.parametrize("schedule", [poly, cosine])
@pytest.mark.parametrize("length", [-1, None])
def test_a_run_without_a_length_is_refused(schedule, length) -> None:
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="trainer.max_epochs must be their number"):
        schedule(optimizer, max_epochs=length)


def test_a_power_with_which_the_rate_would_rise_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="power is -1; expected 0"):
        poly(optimizer, max_epochs=2, power=-1)
    assert poly(optimizer, max_epochs=2, power=0).get_last_lr() == [0.1]


@pytest.mark.parametrize("epochs", [True, -1, 1.5, "2"])
def test_a_warm_up_that_is_no_number_of_epochs_is_refused(epochs) -> None:
    with pytest.raises(ValueError, match="warmup_epochs is .*expected a whole number"):
        make_optimizer_and_schedule(
            functools.partial(torch.optim.SGD, lr=0.1), poly, [torch.nn.Parameter(torch.zeros(1))], 5, epochs
        )


@pytest.mark.parametrize("betas", [[0.9], 0.9])
def test_values_that_an_optimiser_fails_on_are_named(betas) -> None:
    make = functools.partial(torch.optim.AdamW, lr=0.1, betas=betas)
    with pytest.raises(ValueError, match=r"does not take its values: .*betas="):
        make_optimizer_and_schedule(make, poly, [torch.nn.Parameter(torch.zeros(1))], 5)
