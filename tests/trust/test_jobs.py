"""Runs of several processes and sweeps: stopped or killed, and asked again by the same command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from compare import load, nothing_unfinished, same, same_history
from harness import MINIATURE, Command, dice, marked, no_traceback, once, run, train_line

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


@pytest.mark.slow
def test_a_job_of_a_sweep_is_killed_and_the_sweep_asked_again(prepared: Path, tmp_path: Path) -> None:
    """The sweep goes on with its other job and says by its code that one failed; asked again it completes that one."""
    sweep = tmp_path / "sweep"
    line = (
        "train.py", "--multirun", *MINIATURE, "data.iterations_per_epoch=30", "test=false",
        "data.num_workers=0", "trainer.check_val_every_n_epoch=1", "seed=1,2",
        f"hydra.sweep.dir={sweep}", "hydra.sweep.subdir='${seed}'",
    )  # fmt: skip
    first = sweep / "1" / "checkpoints" / "last.ckpt"
    with Command(*line, folder=tmp_path, root=prepared) as command:
        command.wait_for(first.is_file, "to train its first job")
        (job,) = [pid for pid, _ in marked(command.mark) if pid != command.process.pid]
        os.kill(job, signal.SIGKILL)
        assert command.wait() not in (0, None), command.output[-3000:]
        command.must_leave_nothing()
    assert load(first)["epoch"] < 5 and load(sweep / "2" / "checkpoints" / "last.ckpt")["epoch"] == 5
    finished = (sweep / "2" / "checkpoints" / "last.ckpt").read_bytes()
    output = run(*line, folder=tmp_path, root=prepared)
    assert "Resuming from" in output and "1 of 2 job(s) to do" in output, output[-5000:]
    assert (sweep / "2" / "checkpoints" / "last.ckpt").read_bytes() == finished
    alone = tmp_path / "alone"
    run(*train_line(alone, "data.iterations_per_epoch=30", "test=false", "seed=1"), folder=tmp_path, root=prepared)
    same(load(first)["state_dict"], load(alone / "checkpoints" / "last.ckpt")["state_dict"], "weights")
    nothing_unfinished(sweep)
