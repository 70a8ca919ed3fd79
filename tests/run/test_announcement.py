"""The commands that a run names at its end can be given as they stand."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from umamba.callbacks.cost import Cost
from umamba.callbacks.finite_watch import FiniteWatch
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.callbacks.preview import Preview
from umamba.callbacks.progress_picture import ProgressPicture
from umamba.run.announcement import _lost, _other_folds, _watching, conclude, length_line


@pytest.mark.parametrize("name", ["run", "my runs/seed=1,2", "läufe/it's (1)", "a$b"])
def test_paths_survive_shell_and_hydra(name: str, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / name
    conclude(folder, ["mymix"], "max_steps")
    found = {}
    for line in caplog.messages[0].splitlines()[1:]:
        words = shlex.split(line.partition(": ")[2])
        for override in OverridesParser.create().parse_overrides(words[2:]):
            value = override.value()
            found[override.key_or_group] = getattr(value, "text", value)
    last = str(folder / "checkpoints" / "last.ckpt")
    assert (found["checkpoint"], found["ckpt_path"], found["run_dir"]) == (last, last, str(folder))
    assert found["trusted"] == ["mymix"] and found["trainer.max_steps"] == "MORE"


def test_below_the_present_folder_paths_are_short(tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    conclude(tmp_path / "logs" / "a", [])
    assert re.search(r"run_dir=logs/a$", caplog.text, re.M) and "trusted" not in caplog.text


def test_other_folds_in_nnunets_own_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    trained = SimpleNamespace(dataset_dir=Path("raw/Dataset004_X"), fold=1, train_ids=("a", "c"), val_ids=("b",))
    assert _other_folds(trained) is None  # type: ignore[arg-type]
    path = tmp_path / "Dataset004_X" / "splits_final.json"
    path.parent.mkdir()
    splits = [{"train": ["b", "c"], "val": ["a"]}, {"train": ["c", "a"], "val": ["b"]}]
    path.write_text(json.dumps(splits))
    assert _other_folds(trained) is None  # type: ignore[arg-type]
    for others in (splits[:1], splits[::-1]):
        path.write_text(json.dumps(others))
        said = _other_folds(trained)  # type: ignore[arg-type]
        assert said is not None and said.startswith(f"{path} holds another fold 1 than is trained here.")
    path.write_text("[1")  # nothing here depends on it
    assert _other_folds(trained) is None  # type: ignore[arg-type]
    trained.fold = "all"
    assert _other_folds(trained) is None  # type: ignore[arg-type]


def trainer_with(folder: Path, *callbacks: L.Callback, logger: bool = False, **options: object) -> L.Trainer:
    keeps = any(isinstance(callback, LastCheckpoint) for callback in callbacks)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": keeps}
    return L.Trainer(
        accelerator="cpu", callbacks=[*callbacks], logger=logger, default_root_dir=folder, **quiet, **options
    )


def test_a_run_says_what_it_loses_and_names_no_picture_that_is_not_drawn(tmp_path: Path) -> None:
    bare = trainer_with(tmp_path)
    said = {text: level for level, text in _lost(bare)}
    loud = [text for text, level in said.items() if level == logging.WARNING]
    assert len(loud) == 2 and "no last.ckpt" in loud[0] and "NaN or Inf" in loud[1]
    assert any("best.ckpt" in text and "cost.json" in text and "metrics.csv" in text for text in said)
    assert "png" not in _watching(tmp_path, bare)
    safe = trainer_with(tmp_path, LastCheckpoint(tmp_path), FiniteWatch(), Cost(tmp_path), Preview(tmp_path))
    assert all(level == logging.INFO for level, _ in _lost(safe)) and "cost.json" not in str(list(_lost(safe)))
    assert "; preview.png there" in _watching(tmp_path, safe)
    drawn = trainer_with(tmp_path, ProgressPicture(tmp_path), Preview(tmp_path), logger=True)
    assert "progress.png and preview.png there" in _watching(tmp_path, drawn)
    assert not list(_lost(trainer_with(tmp_path, fast_dev_run=True)))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"max_epochs": 1}, "1 epoch of 4 steps"),
        ({"max_epochs": -1}, "epochs of 4 steps"),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, "2 epochs of 2 steps"),
        ({"max_epochs": 2, "limit_train_batches": 9}, "2 epochs of 4 steps"),
        ({"max_epochs": 2, "overfit_batches": 2}, "2 epochs of 2 steps"),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, "2 epochs of 2 steps, each of 3 batches"),
        ({"max_epochs": 2, "max_steps": 5}, "2 epochs of 4 steps, and no more than 5 steps"),
        ({"fast_dev_run": True}, "1 epoch of 1 step, and no more than 1 step"),
        ({"max_epochs": 0}, "none, for trainer.max_epochs=0; the network stays as it is"),
        ({"max_epochs": 2, "max_steps": 0}, "none, for trainer.max_steps=0; the network stays as it is"),
    ],
)
def test_the_length_that_is_said_is_the_one_that_is_trained(options: dict, line: str, tmp_path: Path) -> None:
    assert length_line(trainer_with(tmp_path, **options), 4) == line
