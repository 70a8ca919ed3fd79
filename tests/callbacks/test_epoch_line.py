"""What an epoch brought is said in one line, and nothing that is said or drawn ends a training."""

from __future__ import annotations

import logging
import math
import re
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from tests.run import test_stop
from umamba.callbacks.after_epoch import AfterEpoch
from umamba.callbacks.cost import Cost
from umamba.callbacks.epoch_line import EpochLine, epoch_line, time_left
from umamba.callbacks.limits import Limits
from umamba.callbacks.pace import Pace, pace
from umamba.run import stop

METRICS = {
    "train/loss": -0.4123, "train/skipped_steps": 0.0, "val/loss": -0.398, "val/dice": 0.7134, "val/dice_ema": 0.7,
    "val/dice_liver": 0.951, "val/dice_spleen": math.nan, "cost/epoch_seconds": 34.2, "cost/peak_vram_gib": 10.66,
}  # fmt: skip


def test_all_that_is_known() -> None:
    line = epoch_line(METRICS, ["liver", "spleen"], is_best=True, rate=0.00989, left=33_120)
    assert line == ("loss -0.412, val -0.398, Dice 0.713* [0.95 –], lr 0.0099, 34 s, 10.7 GiB, 9 h 12 min left")


@pytest.mark.parametrize(("waited", "said"), [(0.5, "34 s,"), (10.26, "34 s (30% waiting for data),")])
def test_what_bounds_the_epoch(waited: float, said: str) -> None:
    assert said in epoch_line(METRICS | {"waited": waited}, ["liver"])


def test_what_is_not_known_is_left_out() -> None:
    assert epoch_line({"train/loss": 1.0}, ["liver"], left=0.0) == "loss 1.000"
    assert epoch_line({"train/skipped_steps": 3.0}, []) == "no step taken, 3 steps skipped"


def trainer(**changes: Any) -> Any:
    cost = Cost("run")
    cost.epoch_seconds = changes.pop("seconds", [100.0, 10.0, 20.0])
    timer = Limits(None, changes.pop("max_time", None))
    facts = {"max_epochs": 10, "max_steps": -1, "current_epoch": 3, "global_step": 30, "callbacks": [cost, timer]}
    return SimpleNamespace(**facts | changes)


def test_the_time_left_follows_the_epochs_after_the_first() -> None:
    assert time_left(trainer()) == 7 * 15
    assert time_left(trainer(seconds=[])) is None
    assert time_left(trainer(max_epochs=-1)) is None


def test_the_nearest_limit_counts() -> None:
    assert time_left(trainer(max_steps=40)) == 15
    assert time_left(trainer(max_epochs=None, max_steps=50)) == 30
    assert time_left(trainer(max_time=timedelta(seconds=50))) == pytest.approx(50, abs=1)


@pytest.mark.parametrize(
    ("seconds", "batches", "epochs", "said"),
    [
        (97.5, 250, 1000, "A step takes 1 min 38 s: 1000 epochs of 250 steps take about 282 d 2 h"),
        (0.2, 250, 1000, "A step takes 200 ms: 1000 epochs of 250 steps take about 13 h 53 min"),
        (0.2, 10, 28, None),
        (0.2, 250, -1, None),
    ],
)
def test_how_long_it_will_take(seconds: float, batches: int, epochs: int, said: str | None) -> None:
    found = pace(seconds, batches, epochs, 0)
    assert (found is None) if said is None else found is not None and found[1].startswith(said)


def test_days_on_a_cpu_are_warned_of_once_after_the_first_steps(caplog, monkeypatch) -> None:
    clock = iter(range(0, 10_000, 90))
    monkeypatch.setattr("umamba.callbacks.pace.time.perf_counter", lambda: float(next(clock)))
    facts = {"is_global_zero": True, "num_training_batches": 250, "max_epochs": 1000, "current_epoch": 0}
    trainer = SimpleNamespace(**facts, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    callback = Pace()
    for _ in range(7):
        callback.on_train_batch_end(trainer)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "260 d" in record.message and "trainer.max_epochs" in record.message


class Small(L.LightningModule):
    """One weight; its pseudo Dice goes up and down."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(1, 1)
        self.class_names = ["liver"]

    def training_step(self, batch, batch_idx):
        return self.network.weight.square().sum()

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", 1.5)

    def validation_step(self, batch, batch_idx) -> None:
        score = (0.3, 0.2, 0.4)[self.current_epoch // 2]
        self.log_dict({"val/loss": 1.0, "val/dice": score, "val/dice_ema": score, "val/dice_liver": score})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, *callbacks: L.Callback, epochs: int = 6, data: Any = range(2)) -> L.Trainer:
    made = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[Cost(folder), *callbacks], logger=False,
        default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        check_val_every_n_epoch=2, num_sanity_val_steps=0,
    )  # fmt: skip
    made.fit(Small(), torch.utils.data.DataLoader(data), torch.utils.data.DataLoader(range(1)))
    return made


def test_one_line_for_each_epoch_with_a_star_at_the_best(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "umamba")
    fit(tmp_path, EpochLine())
    lines = [record.message for record in caplog.records if record.name.endswith("epoch_line")]
    assert [line.split(":")[0] for line in lines] == [f"Epoch {number}/6" for number in range(1, 7)]
    assert [bool(re.search("val 1.000, Dice", line)) for line in lines] == [False, True] * 3
    assert ["*" in line for line in lines] == [False, True, False, False, False, True]
    assert all("loss 1.500" in line and "lr 0.1" in line for line in lines)
    assert all("left" in line for line in lines[:-1]) and "left" not in lines[-1]


def test_the_best_is_remembered_when_the_run_goes_on() -> None:
    before, after = EpochLine(), EpochLine()
    before.best = 0.7
    after.load_state_dict(before.state_dict())
    assert after.best == 0.7


class Clock:
    """Stands for `time.perf_counter`."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now


class Slow(torch.utils.data.Dataset):
    """Takes a twentieth of a second for each sample."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> float:
        self.clock.now += 0.05
        return 0.0


def test_a_loader_that_is_slow_is_told(tmp_path: Path, caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO, "umamba")
    monkeypatch.setattr("umamba.callbacks.pace.time.perf_counter", clock := Clock())
    fit(tmp_path, EpochLine(), epochs=2, data=Slow(clock))
    shares = [int(share) for share in re.findall(r"\((\d+)% waiting for data\)", caplog.text)]
    assert len(shares) == 2 and all(share > 40 for share in shares), caplog.text


class Broken(AfterEpoch):
    """Fails whenever it is called."""

    calls = 0

    def after_epoch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.calls += 1
        raise RuntimeError("no font")


def test_what_fails_is_one_warning_and_the_training_goes_on(tmp_path: Path, caplog) -> None:
    broken = Broken()
    assert fit(tmp_path, broken, epochs=3).current_epoch == 3 and broken.calls == 1
    assert [record.message for record in caplog.records if "no font" in record.message] == [
        "Broken has failed and is left out; the training goes on: no font"
    ]


@pytest.mark.parametrize(
    ("hook", "time"), [("on_train_batch_start", 4), ("on_validation_batch_end", 8), ("on_train_batch_end", 6)]
)
def test_an_epoch_that_is_gone_on_with_has_the_rate_that_it_was_trained_with(
    tmp_path: Path, caplog, monkeypatch, hook: str, time: int
) -> None:
    """Also where only its validation is left, when the optimizer has the next epoch's rate already."""
    caplog.set_level(logging.INFO, logger="umamba.callbacks.epoch_line")
    monkeypatch.setattr(stop, "_requests", stop._Requests())
    handlers = {each: signal.getsignal(each) for each in stop.STOP_SIGNALS}
    try:
        with pytest.raises(SystemExit):
            test_stop.fit(tmp_path, EpochLine(), test_stop.SignalAt(hook, time, signal.SIGTERM))
        monkeypatch.setattr(stop, "_requests", stop._Requests())
        test_stop.fit(tmp_path, EpochLine())
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    said = [re.search(r"Epoch (\d)/3: .*lr ([\d.]+)", line) for line in caplog.messages]
    assert [found.groups() for found in said if found] == [("1", "0.1"), ("2", "0.05"), ("3", "0.025")]
