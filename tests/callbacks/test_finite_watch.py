"""A NaN in training is named, skipped, and ends the run only when it persists."""

import functools
import itertools
import logging
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from umamba.callbacks.finite_watch import FiniteWatch, first_non_finite

SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
FUSED = {  # which skip a step by themselves
    "sgd": functools.partial(SGD, fused=True, nesterov=True, weight_decay=0.1),
    "plain sgd": functools.partial(torch.optim.SGD, lr=0.01, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, fused=True),
}
each_optimizer = pytest.mark.parametrize("optimizer", [SGD, *FUSED.values()], ids=["not fused", *FUSED])


class Spoiler(nn.Module):
    """Passes its input on, or NaN where ``spoil`` is set."""

    spoil = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan") if self.spoil else x


class Network(nn.Sequential):
    """Is spoiled for the images of some batches."""

    def __init__(self, bad_steps: set[int]) -> None:
        super().__init__(nn.Linear(2, 2), Spoiler(), nn.Linear(2, 1))
        self.bad_steps = bad_steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self[1].spoil = number_of(x) in self.bad_steps
        return super().forward(x)


def image_of(number: int) -> torch.Tensor:
    return torch.tensor([1.0, number / 16])


def number_of(images: torch.Tensor) -> int:
    return int(16 * images[0, 1])


class Tiny(L.LightningModule):
    def __init__(self, bad_steps: set[int], optimizer=SGD) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.network = Network(bad_steps)
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.network[0].weight.detach().clone())
        return self.network(batch["image"]).square().mean()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def fit(module: Tiny, tmp_path, patience: int = 20, batches: int = 6, **options) -> L.Trainer:
    data = torch.utils.data.DataLoader([{"image": image_of(i)} for i in range(batches)], batch_size=1)
    options = {"gradient_clip_val": 12} | options
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[FiniteWatch(patience)], default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


@each_optimizer
@pytest.mark.parametrize("bad", [0, 2, 5], ids=["first", "middle", "last"])
def test_a_bad_step_is_named_and_skipped(bad: int, optimizer, tmp_path, caplog) -> None:
    module = Tiny({bad}, optimizer)
    with caplog.at_level(logging.WARNING):
        fit(module, tmp_path)
    said = [record.getMessage() for record in caplog.records if "non-finite" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"Step {bad}:") and "layer '1'" in said[0]
    seen = [*module.seen, module.network[0].weight]
    assert torch.equal(seen[bad], seen[bad + 1])  # the bad step changed nothing
    assert all(not torch.equal(a, b) for i, (a, b) in enumerate(itertools.pairwise(seen)) if i != bad)
    assert all(p.isfinite().all() for p in module.parameters())


@each_optimizer
@pytest.mark.parametrize("bad", [0, 2], ids=["first", "middle"])
def test_after_a_bad_step_all_is_as_if_its_batch_had_not_been(bad: int, optimizer, tmp_path, monkeypatch) -> None:
    """Weights and all of the optimizer's state, bit for bit."""
    # What lies in memory that nobody has written: a first step that is skipped must not make momentum of it.
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *given, **options: empty_like(*given, **options).fill_(7))
    results = []
    for with_it in (True, False):
        torch.manual_seed(0)
        module = Tiny({bad} if with_it else set(), optimizer)
        step = module.training_step
        if not with_it:
            module.training_step = lambda batch, i, step=step: None if i == bad else step(batch, i)
        trainer = fit(module, tmp_path)
        results.append([*module.parameters(), *_numbers(trainer.optimizers[0].state_dict()["state"])])
    assert len(results[0]) == len(results[1]) >= 4
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def _numbers(state: dict) -> list[torch.Tensor]:
    return [value for entries in state.values() for value in entries.values() if isinstance(value, torch.Tensor)]


@each_optimizer
def test_training_stops_when_it_persists(optimizer, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="3 steps in a row .* layer '1'.*32-true"):
        fit(Tiny({1, 2, 3}, optimizer), tmp_path, patience=3)


@each_optimizer
def test_it_persists_to_the_end(optimizer, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="3 steps in a row .* layer '1'"):
        fit(Tiny({3, 4, 5}, optimizer), tmp_path, patience=3)


@each_optimizer
def test_steps_that_are_not_in_a_row_do_not_stop_it(optimizer, tmp_path) -> None:
    fit(Tiny({1, 2, 4, 5}, optimizer), tmp_path, patience=3)


def test_the_host_reads_nothing_before_the_next_step(tmp_path, monkeypatch) -> None:
    """What it would have to wait for on a GPU."""
    read = []
    for name in ("__bool__", "item", "__float__"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, own=own: read.append(1) or own(t))
    watch, module = FiniteWatch(), Tiny(set(), FUSED["sgd"])
    optimizer = module.configure_optimizers()
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=None), global_step=0)
    counts = []
    for _ in range(3):
        watch.on_train_batch_start(trainer, module, {"image": torch.ones(1, 2)}, 0)
        module.network(torch.ones(1, 2)).sum().backward()
        read.clear()
        watch.on_before_optimizer_step(trainer, module, optimizer)
        counts.append(len(read))
        optimizer.step()
    assert counts == [1, 0, 1]  # the first step's own flag; none; that of the step before, which has long been there


def test_the_input_is_blamed_first() -> None:
    assert first_non_finite(nn.Linear(2, 2), torch.tensor([float("inf"), 0])) == "the input image"
    assert first_non_finite(nn.Linear(2, 2), torch.zeros(2)) is None


def fit_scaled(module: Tiny, tmp_path, precision: str, patience: int = 20, scale: float = 65536.0) -> L.Trainer:
    """As `fit`, under autocast on the CPU; "16-mixed" with a gradient scaler, as on a GPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if precision == "16-mixed" else None
    plugin = MixedPrecision(precision, "cpu", scaler)
    data = torch.utils.data.DataLoader([{"image": image_of(i)} for i in range(12)], batch_size=1)
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


@each_optimizer
def test_every_batch_of_an_accumulated_step_is_looked_at(optimizer, tmp_path, caplog) -> None:
    module = Tiny(set(), optimizer)
    images = [{"image": torch.tensor([float("nan"), 0.0])}, {"image": torch.ones(2)}]
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[FiniteWatch()], default_root_dir=tmp_path, accumulate_grad_batches=2,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        trainer.fit(module, torch.utils.data.DataLoader(images, batch_size=1))
    assert "the input image" in caplog.text
