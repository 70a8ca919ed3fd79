"""A run that is killed anywhere and started again ends as one that was not: weights, metrics, costs."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from miniatures import make_volumes

from umamba.callbacks.cost import Cost
from umamba.callbacks.csv_log import ResumableCSVLogger
from umamba.callbacks.epoch_line import EpochLine
from umamba.callbacks.finite_watch import FiniteWatch
from umamba.callbacks.last_checkpoint import LastCheckpoint, ended_by
from umamba.callbacks.pace import Pace
from umamba.callbacks.preview import Preview
from umamba.callbacks.progress_picture import ProgressPicture
from umamba.datamodules.custom import CustomDataModule
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.unet import PlainConvUNet
from umamba.trainer import fit, make_trainer

BATCHES = 4


class Killed(Exception):
    """Stands for SIGKILL: nothing of the run is tidied up."""


class KillAt(L.Callback):
    """Ends the run in a hook, at one call of it."""

    def __init__(self, hook: str, call: int) -> None:
        self.calls = itertools.count()
        self.call = call
        setattr(self, hook, self.end)

    def end(self, *arguments) -> None:
        if next(self.calls) == self.call:
            raise Killed


class SaveMidEpoch(L.Callback):
    """Saves last.ckpt after some batch of some epoch, as a signal's handler would, and ends the run."""

    def __init__(self, path: Path, hook: str, epoch: int, batch: int) -> None:
        self.path, self.epoch, self.batch = path, epoch, batch
        setattr(self, hook, self.save)

    def save(self, trainer, module, *rest) -> None:
        if (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.path)
            raise Killed


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_volumes(tmp_path_factory.mktemp("set") / "Dataset001_Small", labels=("liver", "spleen"))


def run(folder: Path, dataset: Path, callbacks=(), *, workers: int = 0, epochs: int = 4, **options) -> L.Trainer | None:
    """What train.py does with a run's folder; None where a callback killed it."""
    torch.manual_seed(0)
    datamodule = CustomDataModule(
        dataset_dir=dataset, prepared_dir=dataset.parent / "prepared", planning={"base_features": 4},
        num_workers=workers, iterations_per_epoch=BATCHES, val_iterations=1, patch_size=(8, 8, 8), batch_size=2,
    )  # fmt: skip
    datamodule.prepare_data()
    module = SegmentationModule(
        plan=datamodule.plan, configuration="3d_fullres", network=PlainConvUNet,
        optimizer=functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9), scheduler=poly,
    )  # fmt: skip
    checkpoints = folder / "checkpoints"
    own = [
        FiniteWatch(),
        Cost(folder),
        EpochLine(),
        Pace(),
        L.pytorch.callbacks.LearningRateMonitor("epoch"),
        L.pytorch.callbacks.ModelCheckpoint(
            checkpoints, "best", monitor="val/dice_ema", mode="max", enable_version_counter=False
        ),
        LastCheckpoint(checkpoints),
    ]
    config = {
        "_target_": "lightning.Trainer", "max_epochs": epochs, "accelerator": "cpu", "gradient_clip_val": 12,
        "num_sanity_val_steps": 0, "use_distributed_sampler": False, "enable_model_summary": False,
        "log_every_n_steps": 1, "default_root_dir": str(folder), **options,
    }  # fmt: skip
    trainer = make_trainer(config, [ResumableCSVLogger(folder)], [*callbacks, *own])
    last = checkpoints / "last.ckpt"
    try:
        fit(trainer, module, datamodule, last if last.is_file() else None)
    except Killed:
        return None
    return trainer


def assert_same_end(one: Path, other: Path) -> None:
    ours, theirs = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (one, other))
    assert ours["global_step"] == theirs["global_step"]
    for name, weight in ours["state_dict"].items():
        assert torch.equal(weight, theirs["state_dict"][name]), name
    tables = [pd.read_csv(folder / "metrics.csv").drop(columns="cost/epoch_seconds") for folder in (one, other)]
    assert not tables[0].duplicated().any()
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-6)
    costs = [json.loads((folder / "cost.json").read_text())["epoch_seconds"] for folder in (one, other)]
    assert len(costs[0]) == len(costs[1])


INTERVALS = [
    {"check_val_every_n_epoch": 1},
    {"check_val_every_n_epoch": 2},
    {"check_val_every_n_epoch": 4},
    {"val_check_interval": 2},
    {"accumulate_grad_batches": 2},
]


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory):
    """Folder of a whole run, made once for each kind."""

    @functools.cache
    def make(kind: int) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        run(folder, dataset, **INTERVALS[kind])
        return folder

    return make


@pytest.mark.parametrize(
    "kill",
    [
        KillAt("on_train_batch_end", 2),  # before the first checkpoint
        KillAt("on_train_batch_end", 9),
        KillAt("on_train_epoch_start", 2),
        KillAt("on_train_epoch_end", 1),
        KillAt("on_validation_end", 0),
    ],
    ids=["first_epoch", "mid_epoch", "epoch_start", "epoch_end", "validation_end"],
)
@pytest.mark.parametrize("kind", [0, 2, 3, 4])
def test_killed_and_started_again(kind: int, kill: KillAt, dataset: Path, uninterrupted, tmp_path: Path) -> None:
    kill.calls = itertools.count()
    assert run(tmp_path, dataset, [kill], **INTERVALS[kind]) is None
    assert run(tmp_path, dataset, **INTERVALS[kind])
    assert_same_end(tmp_path, uninterrupted(kind))


@pytest.mark.parametrize(
    ("hook", "batch", "workers"),
    [("on_train_batch_end", 0, 0), ("on_train_batch_end", 1, 2), ("on_train_batch_end", 2, 0),
     ("on_validation_end", 3, 0), ("on_validation_end", 3, 2)],
)  # fmt: skip
def test_a_checkpoint_within_an_epoch(hook: str, batch: int, workers: int, dataset, uninterrupted, tmp_path) -> None:
    saver = SaveMidEpoch(tmp_path / "checkpoints" / "last.ckpt", hook, 2, batch)
    assert run(tmp_path, dataset, [saver], workers=workers) is None
    assert run(tmp_path, dataset, workers=workers)
    assert_same_end(tmp_path, uninterrupted(0))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_checkpoint_at_val_check_interval(batch: int, dataset: Path, uninterrupted, tmp_path: Path) -> None:
    saver = SaveMidEpoch(tmp_path / "checkpoints" / "last.ckpt", "on_validation_end", 1, batch)
    assert run(tmp_path, dataset, [saver], val_check_interval=2) is None
    assert run(tmp_path, dataset, val_check_interval=2)
    assert_same_end(tmp_path, uninterrupted(3))


@pytest.mark.parametrize("kind", range(len(INTERVALS)))
def test_last_is_the_last_and_every_row_is_there(kind: int, uninterrupted) -> None:
    folder = uninterrupted(kind)
    accumulate = INTERVALS[kind].get("accumulate_grad_batches", 1)
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4 * BATCHES // accumulate
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["train/loss"].dropna().index.size == 4
    assert metrics.loc[metrics["train/loss"].notna(), "epoch"].tolist() == [0, 1, 2, 3]
    validations = 8 if kind == 3 else 4 // INTERVALS[kind].get("check_val_every_n_epoch", 1)
    assert metrics["val/dice_ema"].notna().sum() == validations
    assert ended_by(folder / "checkpoints" / "last.ckpt", max_epochs=4)
    assert not ended_by(folder / "checkpoints" / "last.ckpt", max_epochs=5)
    assert ended_by(folder / "checkpoints" / "last.ckpt", max_epochs=5, max_steps=2)
    with pytest.raises(ValueError, match="trained for 4 epochs, more than trainer.max_epochs=3"):
        ended_by(folder / "checkpoints" / "last.ckpt", max_epochs=3)


@pytest.mark.parametrize("kind", range(4))
def test_the_ema_decays_per_epoch(kind: int, uninterrupted) -> None:
    metrics = pd.read_csv(uninterrupted(kind) / "metrics.csv")
    rows = metrics[metrics["val/dice"].notna()]
    positions = ((rows["step"] + 1) / BATCHES).tolist()
    expected = [rows["val/dice"].iloc[0]]
    for before, position, dice in zip(positions, positions[1:], rows["val/dice"].iloc[1:], strict=False):
        decay = 0.9 ** (position - before)
        expected.append(decay * expected[-1] + (1 - decay) * dice)
    assert rows["val/dice_ema"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("steps", [3, 4, 6])  # within the first epoch, at its end, and at a validation within one
@pytest.mark.parametrize("kind", [0, 2, 3, 4])
def test_max_steps_within_an_epoch(kind: int, steps: int, dataset: Path, uninterrupted, tmp_path: Path) -> None:
    """A run that ends at a number of steps and is gone on with ends as one that was long at once."""
    last = tmp_path / "checkpoints" / "last.ckpt"
    for _ in range(2):  # the second time nothing is left to train
        assert run(tmp_path, dataset, max_steps=steps, **INTERVALS[kind])
        assert torch.load(last, weights_only=True)["global_step"] == steps
        assert ended_by(last, max_epochs=4, max_steps=steps)
    assert run(tmp_path, dataset, **INTERVALS[kind])
    assert_same_end(tmp_path, uninterrupted(kind))


class Hour(L.Callback):
    """A clock that goes on by an hour with each batch."""

    def __init__(self) -> None:
        self.now = 0.0

    def on_train_batch_end(self, *_) -> None:
        self.now += 3600.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("kind", "workers"), [(0, 0), (0, 2), (2, 0), (3, 2), (4, 0)])
def test_max_time_within_an_epoch(kind: int, workers: int, dataset: Path, uninterrupted, tmp_path, monkeypatch) -> None:
    """The time is over with the sixth batch, which in one of the kinds validation follows."""
    clock = Hour()
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", clock)
    trainer = run(tmp_path, dataset, [clock], max_time="00:06:00:00", workers=workers, **INTERVALS[kind])
    assert trainer and trainer.fit_loop.epoch_loop.batch_progress.total.processed == 6
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert ended_by(last, max_epochs=4, max_time="00:06:00:00")
    assert not ended_by(last, max_epochs=4, max_time="00:06:00:01")
    assert not ended_by(last, max_epochs=4)
    assert run(tmp_path, dataset, workers=workers, **INTERVALS[kind])
    assert_same_end(tmp_path, uninterrupted(kind))


def test_a_resumed_epoch_has_its_seconds_before_the_checkpoint_too(tmp_path: Path, monkeypatch) -> None:
    clock = iter([100.0, 130.0, 5000.0, 5010.0])
    monkeypatch.setattr("umamba.callbacks.cost.time.perf_counter", lambda: next(clock))
    first = Cost(tmp_path)
    first.on_train_epoch_start(None, None)
    state = first.state_dict()  # 30 s into the epoch
    second = Cost(tmp_path)
    second.load_state_dict(state)
    second.on_train_start(None, None)
    assert second.state_dict()["running_seconds"] == 40


def test_no_epochs_leave_the_network_as_it_was_made(dataset: Path, tmp_path: Path) -> None:
    assert run(tmp_path, dataset, epochs=0)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 0
    assert run(tmp_path, dataset, epochs=1)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == BATCHES


@pytest.mark.parametrize("killed", [False, True])
def test_pictures_change_nothing(killed: bool, dataset: Path, uninterrupted, tmp_path: Path) -> None:
    pictures = [Preview(tmp_path, every_n_epochs=1), ProgressPicture(tmp_path)]
    if killed:
        assert run(tmp_path, dataset, [KillAt("on_train_batch_end", 9), *pictures]) is None
        pictures = [Preview(tmp_path, every_n_epochs=1), ProgressPicture(tmp_path)]
    run(tmp_path, dataset, pictures)
    assert_same_end(tmp_path, uninterrupted(0))
    assert (tmp_path / "preview.png").is_file() and (tmp_path / "progress.png").is_file()
