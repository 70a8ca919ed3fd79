"""Signals of a scheduler and of the keyboard: a checkpoint, a message, the documented exit code, no child left."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from compare import all_whole, load, nothing_unfinished, same
from harness import Command, dice, no_traceback, once, run, train_line

SIGNALS = {"SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 130, "SIGHUP": 129}  # docs/how_to/resume.md
CHECKPOINT_WITHIN = 30.0  # seconds
LONG = ("trainer.max_epochs=4", "data.iterations_per_epoch=6", "test=false")  # long epochs: signals come within one

each_signal = pytest.mark.parametrize("name", SIGNALS)


def interrupt(command: Command, name: str) -> str:
    """Send the signal and wait; the command's output."""
    assert command.code is None, f"{command} ended before the signal:\n{command.output[-3000:]}"
    sent = time.monotonic()
    command.signal(getattr(signal, name))
    code = command.wait()
    assert time.monotonic() - sent < CHECKPOINT_WITHIN
    assert code == SIGNALS[name], f"{command} ended with {code} after {name}:\n{command.output[-5000:]}"
    command.must_leave_nothing()
    no_traceback(command.output)
    return command.output


@pytest.mark.slow
@each_signal
def test_while_data_are_prepared(tmp_path: Path, name: str) -> None:
    line = train_line(tmp_path / "run", "train=false", "test=false", workers=2)
    made = ("raw/Dataset900_Phantom", "prepared/Dataset900_Phantom/plan.json", "prepared/Dataset900_Phantom/*/*")
    with Command(*line, folder=tmp_path) as command:
        before = dice("preparation", name).choice(made)
        command.wait_for(lambda: any((tmp_path / "data").glob(before)), f"to make {before}")
        interrupt(command, name)
    run(*line, folder=tmp_path)
    all_whole(tmp_path)
    nothing_unfinished(tmp_path)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        pytest.param(name, workers, marks=() if (name, workers) == ("SIGTERM", 2) else pytest.mark.slow)
        for name in SIGNALS
        for workers in (0, 2)
    ],
)
def test_in_training(shared: Path, prepared: Path, tmp_path: Path, name: str, workers: int) -> None:
    reference = once(
        shared / "reference-long",
        lambda folder: run(*train_line(folder / "run", *LONG), folder=folder, root=prepared),
    )
    line, last = train_line(tmp_path / "run", *LONG, workers=workers), tmp_path / "run" / "checkpoints" / "last.ckpt"
    with Command(*line, folder=tmp_path, root=prepared) as command:
        command.started()
        begin = time.monotonic()
        command.wait_for(last.is_file, "to train an epoch")
        time.sleep(dice("training", name, workers).uniform(0, time.monotonic() - begin))  # three more take longer
        steps = load(last)["global_step"] if last.is_file() else 0
        output = interrupt(command, name)
    assert name in output and str(last.parent.parent) in output, output[-3000:]
    # Between two epochs the checkpoint of the first is the last step's already: no other is written then
    said = re.search(r"step (\d+) is in ", output)
    assert said is not None and load(last)["global_step"] == int(said[1]) >= max(1, steps), output[-3000:]
    assert "Resuming from" in run(*line, folder=tmp_path, root=prepared)
    same(load(last)["state_dict"], load(reference / "run" / "checkpoints" / "last.ckpt")["state_dict"], "weights")


@pytest.mark.slow
@each_signal
def test_in_validation(prepared: Path, tmp_path: Path, name: str) -> None:
    overrides = ("data.iterations_per_epoch=1", "data.val_iterations=400", "trainer.max_epochs=2", "test=false")
    line, last = train_line(tmp_path / "run", *overrides), tmp_path / "run" / "checkpoints" / "last.ckpt"
    with Command(*line, folder=tmp_path, root=prepared) as command:
        command.started()
        time.sleep(dice("validation", name).uniform(2, 4))  # two single steps of training, seconds of validation
        interrupt(command, name)
    assert load(last)["global_step"] >= 1
    assert "Resuming from" in run(*line[:-1], "data.val_iterations=1", line[-1], folder=tmp_path, root=prepared)


@pytest.mark.slow
@each_signal
def test_in_prediction(prepared: Path, trained: Path, tmp_path: Path, name: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (source,) = (prepared / "data" / "raw" / "Dataset900_Phantom" / "imagesTs").glob("phantom_012*")
    for index in range(60):
        shutil.copy(source, images / f"case_{index}x_0000.nii.gz")
    line = ("predict.py", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}", f"input={images}", f"output={out}")
    with Command(*line, folder=tmp_path) as command:
        command.wait_for(lambda: any(out.glob("*.nii.gz")), "to write")
        interrupt(command, name)
    all_whole(out)
    run(*line, folder=tmp_path)
    assert len(list(out.glob("*.nii.gz"))) == 60
    all_whole(out)
    nothing_unfinished(out)


@pytest.mark.slow
@each_signal
def test_in_scoring(prepared: Path, trained: Path, tmp_path: Path, name: str) -> None:
    folders = {"predictions": tmp_path / "predictions", "labels": tmp_path / "labels"}
    for folder in folders.values():
        folder.mkdir()
    labels = prepared / "data" / "raw" / "Dataset900_Phantom" / "labelsTs"
    for index in range(200):
        shutil.copy(trained / "predictions" / "phantom_012.nii.gz", folders["predictions"] / f"case_{index}x.nii.gz")
        shutil.copy(labels / "phantom_012.nii.gz", folders["labels"] / f"case_{index}x.nii.gz")
    line = (
        "eval.py", f"predictions={folders['predictions']}", f"references={folders['labels']}", "workers=2",
        f"dataset_json={labels.parent / 'dataset.json'}", "nsd_tolerance=2", f"output={tmp_path / 'scores'}",
    )  # fmt: skip
    with Command(*line, folder=tmp_path) as command:
        command.wait_for(lambda: len(command.living()) > 2, "to start its workers")
        time.sleep(dice("scoring", name).uniform(0, 1))
        interrupt(command, name)
    run(*line, folder=tmp_path)
    all_whole(tmp_path / "scores")
