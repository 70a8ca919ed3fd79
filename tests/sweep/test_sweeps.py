"""Sweeps as a user calls them, with a stub in place of train.py: what is done, dealt, submitted, and said of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from played_slurm import Slurm

from umamba.sweep.status import survey

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")]
STUB = Path(__file__).with_name("stub_job.py")
STEPS = ["trainer.max_epochs=2", "data.iterations_per_epoch=10"]  # 20, as the stub takes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user works; its name has what command lines stumble over."""
    folder = tmp_path / "Größe (1) [a=b]"
    folder.mkdir()
    return folder


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    line = [sys.executable, str(STUB), "--multirun", *STEPS, "hydra.sweep.dir=sweep", *arguments]
    return subprocess.Popen(
        line, cwd=folder, env={**kept, "COLUMNS": "160", **variables}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def sweep(folder: Path, *arguments: str, ok: bool = True, **variables: str) -> str:
    process = start(folder, *arguments, **variables)
    output = process.communicate(timeout=300)[0]
    assert (process.returncode == 0) == ok, output
    assert "Traceback" not in output and "GPU available" not in output, output
    return output


def status(folder: Path) -> dict[str, dict]:
    """As `umamba sweep status sweep format=json` says it, in this process."""
    return {finding.entry.name: finding.facts() for finding in survey(folder / "sweep")}


def starts(folder: Path, job: str) -> list[dict]:
    path = folder / "sweep" / job / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_asked_again_a_sweep_does_what_is_missing_or_failed(folder: Path) -> None:
    output = sweep(folder, "seed=1,2", ok=False, STUB_FAILS="2")
    assert "2 of 2 job(s) to do" in output and "seed-2 failed: deaf=3: expected true or false" in output
    line = [sys.executable, "-m", "umamba", "sweep", "status", "sweep", "format=json"]
    said = json.loads(subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout)
    found = {job["job"]: job for job in said}
    assert [found[job]["state"] for job in ("seed-1", "seed-2")] == ["finished", "failed"]
    assert found["seed-1"] | {"seconds": 1} == {
        "job": "seed-1", "folder": "sweep/seed-1", "overrides": [*STEPS, "seed=1"], "state": "finished", "step": 20,
        "steps": 20, "metric": "val/dice_ema", "score": 0.51, "seconds": 1, "reason": None,
    }  # fmt: skip
    assert found["seed-2"]["reason"].startswith("deaf=3: expected true or false")
    assert "2 of 3 job(s) to do" in sweep(folder, "seed=1,2,3")
    assert [len(starts(folder, f"seed-{seed}")) for seed in (1, 2, 3)] == [1, 1, 1]
    assert {job["state"] for job in status(folder).values()} == {"finished"}
    # other settings of the same jobs are no repetition
    assert "2 of 2 job(s) to do" in sweep(folder, "seed=1,2", "trainer.max_epochs=3")
    assert [each["step"] for each in starts(folder, "seed-1")] == [0, 20]


def test_jobs_on_gpus_of_their_own_are_killed_in_the_middle_and_gone_on_with(folder: Path) -> None:
    line = ["hydra/launcher=gpus", "hydra.launcher.gpus=[3,5]", "seed=1,2,3"]
    process = start(folder, *line, CUDA_VISIBLE_DEVICES="3,5", STUB_GATE=str(folder / "gate"))
    end = time.monotonic() + 300
    while not all((folder / "sweep" / f"seed-{seed}" / "metrics.csv").is_file() for seed in (1, 2)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    found = status(folder)
    assert [job["state"] for job in found.values()] == ["running", "running", "wanted"]
    assert found["seed-1"]["steps"] == 20 and found["seed-1"]["seconds"] > 0
    process.kill()
    process.communicate()
    while any((folder / "sweep" / f"seed-{seed}" / ".holder.json").exists() for seed in (1, 2)):
        assert time.monotonic() < end, "the jobs do not end with their sweep"
        time.sleep(0.1)
    found = status(folder)
    assert [job["state"] for job in found.values()] == ["stopped", "stopped", "wanted"]
    assert 0 < found["seed-1"]["step"] <= 5 and found["seed-1"]["steps"] == 20
    assert "killed" in found["seed-1"]["reason"]
    sweep(folder, *line, CUDA_VISIBLE_DEVICES="3,5")
    assert {job["state"] for job in status(folder).values()} == {"finished"}
    first = [starts(folder, f"seed-{seed}")[0] for seed in (1, 2)]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in first) == ["3", "5"]
    assert starts(folder, "seed-1")[1]["step"] == found["seed-1"]["step"]
    assert all(each["OMP_NUM_THREADS"] and each["workers"] >= 1 for each in first)
    assert "on GPU" not in (folder / "sweep" / "jobs" / "seed-1.log").read_text()  # what the job says, not the sweep


def test_jobs_of_slurm_are_submitted_signalled_run_again_and_told_of(folder: Path) -> None:
    slurm = Slurm(folder / "slurm", SLURM_ARRAY_JOB_ID="77", STUB_GATE=str(folder / "gate"))
    sbatch = folder / "slurm" / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/submitted"\necho "77;cluster"\n')
    sbatch.chmod(0o755)
    line = ["hydra/launcher=slurm", "hydra.launcher.sbatch.partition=gpu", "hydra.launcher.at_once=1",
            "hydra.launcher.setup=['export SEEN=1']", "seed=1,2"]  # fmt: skip
    path = f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}"
    output = sweep(folder, *line, PATH=path)
    assert "SLURM has 2 job(s) as 77" in output
    (script,) = (folder / "sweep" / "jobs").glob("submit_*.sh")
    text = script.read_text()
    assert "#SBATCH --array=0-1%1\n" in text and "#SBATCH --partition=gpu\n" in text and "export SEEN=1\n" in text
    assert (folder / "submitted").read_text().startswith("--parsable ")
    found = status(folder)
    assert {job["state"] for job in found.values()} == {"wanted"}
    assert found["seed-2"]["reason"] == "submitted to SLURM as 77_1"

    def task(number: int) -> subprocess.Popen:
        slurm.environment["SLURM_ARRAY_TASK_ID"] = str(number)
        return slurm.start(text)

    job = task(0)
    slurm.wait_for((folder / "sweep" / "seed-1" / "metrics.csv").is_file, job)
    job.send_signal(signal.SIGUSR1)  # as B: does, the batch shell alone
    assert slurm.end(job, 60) == 138 and slurm.requeued() == ["requeue 77_0"], slurm.output
    stopped = status(folder)["seed-1"]
    assert stopped["state"] == "stopped" and 0 < stopped["step"] < 20 and stopped["reason"] == "ended by SIGUSR1"
    (folder / "gate").touch()
    slurm.environment["STUB_FAILS"] = "2"
    assert slurm.end(task(0)) == 0 and slurm.end(task(1)) == 1, slurm.output
    found = status(folder)
    assert [job["state"] for job in found.values()] == ["finished", "failed"]
    assert starts(folder, "seed-1")[1]["step"] == stopped["step"] and starts(folder, "seed-1")[0]["slurm"] == []
    assert "1 of 2 job(s) to do" in sweep(folder, *line, PATH=path)
    assert slurm.end(task(0)) == 0  # run once more though it is done
    assert len(starts(folder, "seed-1")) == 2
