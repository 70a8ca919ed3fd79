"""Signals, sweeps and locks as a user meets them: train.py in processes of its own, on small generated volumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from umamba.locations import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
TINY = [
    "experiment=demo", "trainer=cpu", "trainer.max_epochs=2", "data.iterations_per_epoch=4", "data.val_iterations=2",
    "data.num_workers=2", "data.planning.base_features=4", "test=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a user works; its name has what command lines stumble over."""
    folder = tmp_path_factory.mktemp("user") / "Größe (1) [a=b]"
    folder.mkdir()
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UMAMBA_ROOT": str(folder), "COLUMNS": "160"}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(folder: Path, *arguments: str) -> str:
    process = start(folder, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return output


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}")


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]


def assert_gone(pids: list[int]) -> None:
    end = time.monotonic() + 60
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_stopped_run_says_so_and_the_same_command_ends_it_as_if_it_had_not(folder: Path) -> None:
    run(folder, *TINY, "run_dir=whole")
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        number = getattr(signal, name)
        process = start(folder, *TINY, f"run_dir={name}")
        wait_for(process, "Selective scan on")  # said by the first step
        workers, told = children_of(process.pid), time.monotonic()
        process.send_signal(number)
        output = process.communicate(timeout=180)[0]
        assert time.monotonic() - told < 30 and process.returncode == 128 + number, output[-3000:]
        assert f"Stopped by {name}" in output and "Traceback" not in output, output[-3000:]
        assert_gone(workers)
        assert torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] < 8
        assert "Resuming from" in run(folder, *TINY, f"run_dir={name}")
        whole, resumed = (
            torch.load(folder / run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for run_dir in ("whole", name)
        )
        assert all(torch.equal(value.nan_to_num(), resumed[key].nan_to_num()) for key, value in whole.items())


@pytest.mark.slow
def test_a_sweep_keeps_its_config_and_ends_its_jobs_with_it(folder: Path) -> None:
    configs = folder / "configs (mine)"
    configs.mkdir()
    content = {"defaults": ["train", "_self_"], "data": {"iterations_per_epoch": 1000}, "compile": False}
    (configs / "mine.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    overrides = [override for override in TINY if not override.startswith("data.iterations")]
    command = [f"--config-dir={configs}", "--config-name=mine", "--multirun", *overrides, "seed=1,2"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = start(folder, *command, f"hydra.sweep.dir=sweep_{code}")
        wait_for(process, "Selective scan on")
        (job,) = children_of(process.pid)
        workers = children_of(job)
        process.send_signal(number)
        assert process.wait(timeout=180) == code
        process.stdout.close()
        assert_gone([job, *workers])
        run_dir = folder / f"sweep_{code}" / "seed-1"
        assert OmegaConf.load(run_dir / "config.yaml").data.iterations_per_epoch == 1000
        assert (run_dir / "checkpoints" / "last.ckpt").is_file()
        assert not (folder / f"sweep_{code}" / "seed-2").exists()


@pytest.mark.slow
def test_two_trainings_in_one_folder(folder: Path) -> None:
    first = start(folder, *TINY, "data.iterations_per_epoch=1000", "run_dir=shared")
    wait_for(first, "Selective scan on")
    second = start(folder, *TINY, "data.iterations_per_epoch=1000", "run_dir=shared")
    output = second.communicate(timeout=180)[0]
    assert second.returncode == 1 and f"in use by another training (process {first.pid}" in output, output[-2000:]
    first.kill()
    first.communicate()
    third = start(folder, *TINY, "data.iterations_per_epoch=1000", "run_dir=shared")
    wait_for(third, "Selective scan on")
    third.terminate()
    third.communicate(timeout=180)
    assert third.returncode == 143


@pytest.mark.slow
def test_two_processes_of_one_run_leave_one_folder_and_stop_together(folder: Path) -> None:
    command = [*TINY, "trainer.devices=2", "trainer.strategy=ddp", "data.iterations_per_epoch=1000"]
    process = start(folder, *command, "task_name=ddp")
    wait_for(process, "Selective scan on")
    others = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 143, output[-3000:]
    assert_gone(others)
    (run_dir,) = (folder / "logs" / "ddp" / "fold_0").iterdir()
    assert (run_dir / "checkpoints" / "last.ckpt").is_file()
    assert json.loads((run_dir / "provenance.json").read_text())["overrides"][0] == "experiment=demo"
