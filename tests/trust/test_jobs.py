"""Runs of several processes: stopped or killed, and gone on with by the same command."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from compare import load, nothing_unfinished, same, same_history
from harness import Command, dice, no_traceback, once, run, train_line

DDP = ("trainer.max_epochs=4", "data.iterations_per_epoch=20", "data.batch_size=2", "trainer.devices=2",
       "trainer.strategy=ddp", "test=false")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_two_processes_of_one_run(shared: Path, prepared: Path, tmp_path: Path, name: str) -> None:
    """Over gloo on the CPU: stopped with a checkpoint, or killed; the same command ends as if nothing had been."""
    reference = once(
        shared / "reference-ddp",
        lambda folder: run(*train_line(folder / "run", *DDP), folder=folder, root=prepared),
    )
    line, last = train_line(tmp_path / "run", *DDP), tmp_path / "run" / "checkpoints" / "last.ckpt"
    with Command(*line, folder=tmp_path, root=prepared) as command:
        command.wait_for(last.is_file, "to train an epoch")
        time.sleep(dice("ddp", name).uniform(0, 0.5))
        assert command.code is None, command.output[-3000:]
        if name == "SIGKILL":
            command.kill()
        else:
            command.signal(signal.SIGTERM)
            assert command.wait() == 143, command.output[-3000:]
            no_traceback(command.output)
        command.must_leave_nothing()  # the second process ends with the first
    assert load(last)["global_step"] < 80
    assert "Resuming from" in run(*line, folder=tmp_path, root=prepared)
    expected = reference / "run"
    same(load(last)["state_dict"], load(expected / "checkpoints" / "last.ckpt")["state_dict"], "weights")
    same_history(tmp_path / "run" / "metrics.csv", expected / "metrics.csv")
    nothing_unfinished(tmp_path / "run")
