"""A checkpoint write that fails half-way leaves the old file as it was; a moved folder keeps its best checkpoint."""

import shutil
import threading
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from omegaconf import OmegaConf

from umamba.callbacks.atomic_checkpoint import AtomicCheckpointIO
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.plain import with_plain_arguments


def test_the_old_checkpoint_survives_a_failed_write(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint({"epoch": 1}, path)

    def full_disk(checkpoint, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        plugin.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_what_could_not_be_read_back_is_refused_at_once(tmp_path) -> None:
    path, plugin = tmp_path / "last.ckpt", AtomicCheckpointIO()
    plugin.save_checkpoint({"epoch": 1}, path)
    with pytest.raises(ValueError, match=r"last.ckpt could not be read back, and is not kept: it holds a .*ListConfig"):
        plugin.save_checkpoint({"epoch": 2, "optimizer_states": [{"eps": OmegaConf.create([1, 2])}]}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


class Keeps(L.Callback):
    """A callback of a user's own, with this in its state; notes the steps."""

    def __init__(self, kept) -> None:
        self.kept, self.steps = kept, 0

    def on_train_batch_end(self, *_) -> None:
        self.steps += 1

    def state_dict(self) -> dict:
        return {"kept": self.kept}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    ("kept", "said"),
    [(Path("a"), "PosixPath"), (np.float64(3), "numpy.*scalar"), (lambda: 3, "lambda"), (threading.Lock(), "lock")],
    ids=["a path", "a number of numpy", "a function", "a lock"],
)
def test_a_state_that_is_no_plain_data_is_refused_before_the_first_step(tmp_path, kept, said, last) -> None:
    mine = Keeps(kept)
    callbacks = [LastCheckpoint(tmp_path), mine] if last else [mine]
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=callbacks, plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=2, limit_val_batches=0,
        enable_checkpointing=last,
    )  # fmt: skip
    if last:
        with pytest.raises(ValueError, match=rf"Keeps has a state that no checkpoint can keep: .*{said}.*state_dict"):
            trainer.fit(BoringModel())
    else:
        trainer.fit(BoringModel())
        with pytest.raises(ValueError, match=rf"a\.ckpt could not be read back, and is not kept: .*{said}"):
            trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert mine.steps == (0 if last else 2) and not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    "options",
    [
        {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95]},
        {"_target_": "torch.optim.Adafactor", "eps": [None, 1e-3]},
    ],
)
def test_lists_of_an_optimiser_are_pythons_own_in_its_checkpoints(tmp_path, options) -> None:
    make = with_plain_arguments(instantiate({**options, "_partial_": True}))
    state = make([torch.nn.Parameter(torch.zeros(2, 2))]).state_dict()
    AtomicCheckpointIO().save_checkpoint(state, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == state


class Scores(BoringModel):
    """A model whose validations score what is said."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = scores

    def on_validation_epoch_end(self) -> None:
        self.log("score", self.scores[self.current_epoch])


def trained(folder, epochs: int, *scores: float, resume=None) -> ModelCheckpoint:
    best = ModelCheckpoint(folder, "best", monitor="score", mode="max", save_last=True, enable_version_counter=False)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[best], plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=1, limit_val_batches=1,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Scores(*scores), ckpt_path=resume)
    return best


@pytest.mark.filterwarnings("ignore")
def test_a_moved_best_checkpoint_is_not_overwritten_by_a_worse_one(tmp_path) -> None:
    trained(tmp_path / "old", 2, 0.1, 0.9)
    shutil.move(tmp_path / "old", tmp_path / "new")
    best = trained(tmp_path / "new", 4, 0.1, 0.9, 0.2, 0.3, resume=tmp_path / "new" / "last.ckpt")
    assert float(best.best_model_score) == pytest.approx(0.9)
    assert torch.load(tmp_path / "new" / "best.ckpt", weights_only=True)["epoch"] == 1
    better = trained(tmp_path / "new", 5, 0.1, 0.9, 0.2, 0.3, 0.95, resume=tmp_path / "new" / "last.ckpt")
    assert float(better.best_model_score) == pytest.approx(0.95)
    assert torch.load(tmp_path / "new" / "best.ckpt", weights_only=True)["epoch"] == 4


@pytest.mark.filterwarnings("ignore")
def test_the_best_of_another_run_is_left_alone(tmp_path) -> None:
    """A run that is begun from another's checkpoint has no best checkpoint of its own yet."""
    trained(tmp_path / "one", 2, 0.1, 0.9)
    trained(tmp_path / "two", 3, 0.1, 0.9, 0.2, resume=tmp_path / "one" / "last.ckpt")
    assert torch.load(tmp_path / "one" / "best.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(tmp_path / "two" / "best.ckpt", weights_only=True)["epoch"] == 2
