"""Pictures of a training: the same patches every time, whole history after a resume, and never an end of the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from skimage import io as skio

from umamba.callbacks import preview, progress_picture
from umamba.callbacks.csv_log import ResumableCSVLogger
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.callbacks.preview import Preview
from umamba.callbacks.progress_picture import ProgressPicture
from umamba.callbacks.sent_pictures import shown_classes
from umamba.raw.regions import Region

PLAN = SimpleNamespace(
    channel_names=("T1", "T2"),
    regions=(),
    ignore_label=None,
    configuration=lambda name: SimpleNamespace(spacing=(3.0, 2.0, 1.0)),
)


class Patches(torch.utils.data.Dataset):
    """Six patches, of which the first and the fourth have no foreground."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> dict[str, Any]:
        label = torch.zeros(self.shape, dtype=torch.int16)
        if number % 3:
            label[..., 2:5, 1:4] = number % 2 + 1
        image = torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(number))
        return {"image": image, "label": label, "case": f"case_{number}"}


class Module(L.LightningModule):
    """Predicts the second class everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(1, 1)
        self.class_names, self.plan, self.configuration = ["liver", "tumour"], PLAN, "3d"

    def training_step(self, batch, batch_idx):
        return self.network.weight.square().sum()

    def on_train_start(self) -> None:
        for logger in self.loggers:
            if isinstance(logger, ResumableCSVLogger):
                logger.begin(self.trainer)

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", 1.0)

    def validation_step(self, batch, batch_idx):
        self.log("val/dice", 0.5, batch_size=2)
        logits = torch.zeros(len(batch["label"]), 3, *batch["label"].shape[1:])
        logits[:, 2] = 1
        return logits

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, *callbacks: L.Callback, shape=(4, 8, 6), epochs=2, loggers=(), every=1, **options) -> L.Trainer:
    last = folder / "last.ckpt"
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, LastCheckpoint(folder)],
        logger=[ResumableCSVLogger(folder), *loggers], default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_train_batches=1, check_val_every_n_epoch=every,
        log_every_n_steps=1, **options,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Patches(shape), batch_size=2)
    trainer.fit(Module(), loader, loader, ckpt_path=last if last.is_file() else None, weights_only=True)
    return trainer


@pytest.fixture
def rows(monkeypatch) -> list[list[preview.Row]]:
    drawn: list[list[preview.Row]] = []
    draw = preview.rows_figure
    monkeypatch.setattr(preview, "rows_figure", lambda rows, *rest: (drawn.append(rows), draw(rows, *rest)))
    return drawn


@pytest.mark.parametrize("shape", [(4, 8, 6), (8, 6)])
def test_the_same_patches_with_foreground_every_time(tmp_path: Path, rows, shape) -> None:
    fit(tmp_path, Preview(tmp_path, patches=3, every_n_epochs=1), shape=shape, epochs=3)
    assert [[row.name.split(",")[0] for row in drawn] for drawn in rows] == [["case_1", "case_2", "case_4"]] * 3
    first = rows[0][0]
    assert first.reference.shape == (8, 6) and first.reference.max() == 2 and first.aspect == 2.0
    assert (first.prediction == 2).all() and first.picture.shape == (8, 6, 3)
    assert skio.imread(tmp_path / "preview.png").std() > 10


def test_it_is_drawn_first_every_n_epochs_and_last(tmp_path: Path, rows, monkeypatch) -> None:
    titles: list[str] = []
    draw = preview.rows_figure
    monkeypatch.setattr(preview, "rows_figure", lambda *given: (titles.append(given[-1]), draw(*given)))
    fit(tmp_path, Preview(tmp_path, patches=1, every_n_epochs=3), epochs=9, every=2)
    assert titles == [f"after epoch {n}, patches as the network sees them" for n in (2, 6, 8)]


def test_without_foreground_nothing_is_drawn(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Patches, "__getitem__", lambda self, number: {
        "image": torch.zeros(1, 4, 4), "label": torch.zeros(4, 4), "case": "empty"
    })  # fmt: skip
    assert fit(tmp_path, Preview(tmp_path)).current_epoch == 2
    assert not (tmp_path / "preview.png").exists()


@pytest.mark.parametrize("wrong", [{"patches": 0}, {"every_n_epochs": 0}])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong) -> None:
    with pytest.raises(ValueError, match="callbacks.preview=null leaves it out"):
        Preview(tmp_path, **wrong)


def test_the_whole_history_is_drawn_after_every_epoch_and_a_resume(tmp_path: Path, monkeypatch) -> None:
    seen: list[int] = []
    draw = progress_picture.history_figure
    monkeypatch.setattr(progress_picture, "history_figure", lambda metrics_csv, *rest: (
        seen.append(int(pd.read_csv(metrics_csv)["epoch"].nunique())), draw(metrics_csv, *rest)
    ))  # fmt: skip
    fit(tmp_path, ProgressPicture(tmp_path), epochs=2)
    fit(tmp_path, ProgressPicture(tmp_path), epochs=4)
    assert seen == [1, 2, 3, 4]


def test_a_trial_leaves_no_picture(tmp_path: Path) -> None:
    fit(tmp_path, ProgressPicture(tmp_path), Preview(tmp_path), fast_dev_run=True)
    assert not [*tmp_path.glob("*.png")]


def test_pictures_that_fail_are_a_warning_each(tmp_path: Path, monkeypatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(preview, "rows_figure", fail)
    monkeypatch.setattr(progress_picture, "history_figure", fail)
    assert fit(tmp_path, ProgressPicture(tmp_path), Preview(tmp_path, every_n_epochs=1), epochs=3).current_epoch == 3
    assert sorted(record.message.split()[0] for record in caplog.records if "no space" in record.message) == [
        "Preview", "ProgressPicture",
    ]  # fmt: skip


def test_tensorboard_and_wandb_get_them(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, "", ""), WandbLogger(save_dir=tmp_path, offline=True)]
    fit(tmp_path, ProgressPicture(tmp_path), Preview(tmp_path, patches=2), loggers=loggers)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["images"]) == ["preview", "progress"]
    run = loggers[1].experiment
    files = Path(run.dir)
    assert len([*(files / "media" / "images").glob("progress*.png")]) == 1
    assert len([*(files / "media" / "images").glob("preview*.png")]) >= 2
    masks = [*(files / "media" / "images" / "mask").glob("*.png")]
    assert len(masks) >= 4  # reference and prediction of two patches
    run.finish()


def test_the_labels_of_a_previous_stage_are_no_colours(tmp_path: Path, rows, monkeypatch) -> None:
    """One channel and what a previous stage segmented of two labels: three channels that are no picture in colours."""
    make = Patches.__getitem__
    extra = torch.rand(1, 4, 8, 6, generator=torch.Generator().manual_seed(9))

    def with_labels(self, number):
        sample = make(self, number)
        return {**sample, "image": torch.cat([sample["image"], extra])}

    monkeypatch.setattr(PLAN, "channel_names", ("MR",))
    monkeypatch.setattr(Patches, "__getitem__", with_labels)
    fit(tmp_path, Preview(tmp_path, patches=1, every_n_epochs=1), epochs=1)
    picture = rows[0][0].picture
    assert (picture == picture[..., :1]).all()


def test_regions_have_the_colours_of_what_is_written_for_them() -> None:
    regions = (Region(name="whole", labels=(1, 2), written=2), Region(name="core", labels=(1,), written=1))
    module = SimpleNamespace(class_names=["whole", "core"], plan=SimpleNamespace(regions=regions))
    assert shown_classes(module) == {2: "whole", 1: "core"}
    module.plan.regions = ()
    assert shown_classes(module) == {1: "whole", 2: "core"}
