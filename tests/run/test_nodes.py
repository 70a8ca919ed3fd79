"""Trainings over two nodes, played on one machine, and jobs of SLURM that are signalled and run again."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from miniatures import TINY, make_volumes, run
from played_slurm import Slurm

from tests.models.rank_processes import free_port
from umamba.locations import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="gloo over fork and signals")]
LONG = ["model=nnunet", "test=false", "trainer.max_epochs=4", "data.iterations_per_epoch=15"]  # longer than a moment


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    raw = make_volumes(folder / "Dataset007_Toy")
    return ["data=custom", *TINY, f"data.dataset_dir={raw}", f"data.prepared_dir={folder / 'prepared'}"]


@pytest.fixture(scope="module")
def whole(data: list[str], tmp_path_factory) -> Path:
    """A training of one process that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    run("train.py", *data, *LONG, f"run_dir={folder / 'run'}", folder=folder)
    return folder / "run"


def history(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = csv.DictReader(file)
        return [{k: float(v) for k, v in row.items() if v and not k.startswith("cost/")} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same_training(folder: Path, whole: Path) -> None:
    assert len(history(folder)) == len(history(whole))
    for one, other in zip(history(whole), history(folder), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4, nan_ok=True)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(folder)[name], value, rtol=1e-2, atol=1e-3, equal_nan=True, msg=name)


def test_two_nodes_of_torchrun_share_the_batch_as_one_process_has_it(data, whole: Path, tmp_path: Path) -> None:
    line = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1",
            f"--master-port={free_port()}"]  # fmt: skip
    command = [str(ROOT / "train.py"), *data, *LONG, "trainer.num_nodes=2", "trainer.strategy=ddp",
               f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    environment, nodes = {**os.environ, "OMP_NUM_THREADS": "1"}, []
    for node in range(2):  # into files: a node whose pipe is full waits for its reader, and the other one for it
        with open(tmp_path / f"{node}.log", "wb") as output:
            nodes.append(subprocess.Popen([sys.executable, *line, f"--node-rank={node}", *command], cwd=tmp_path,
                                          env=environment, stdout=output, stderr=subprocess.STDOUT))  # fmt: skip
    limit = time.monotonic() + 300
    try:
        # One that has failed is not waited for by the test, as it is by the other node.
        while not all(node.poll() == 0 for node in nodes) and not any(node.returncode for node in nodes):
            assert time.monotonic() < limit, [(tmp_path / f"{node}.log").read_text()[-4000:] for node in range(2)]
            time.sleep(0.1)
        codes = [node.returncode for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert codes == [0, 0], [(tmp_path / f"{node}.log").read_text()[-4000:] for node in range(2)]
    said = [(tmp_path / f"{node}.log").read_text() for node in range(2)]
    assert " INFO Epoch 4/4" in said[0] and " INFO " not in said[1]
    same_training(tmp_path / "run", whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_job_of_srun_on_two_nodes_stops_together_and_is_run_again_once(data, whole, tmp_path, number, code) -> None:
    """With SIGTERM it is preempted, which SLURM tells the tasks at the beginning of the grace time."""
    slurm = Slurm(tmp_path / "slurm", SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="1", SLURM_NNODES="2")
    run_dir = tmp_path / "run"
    line = ["srun", "python", str(ROOT / "train.py"), *data, *LONG, "trainer.num_nodes=2", f"run_dir={run_dir}"]
    script, last = shlex.join(line), run_dir / "checkpoints" / "last.ckpt"
    job = slurm.start(script)
    slurm.wait_for(last.is_file, job)
    slurm.show(preempted=number == signal.SIGTERM)
    slurm.signal_tasks(number)
    assert slurm.end(job, 60) == code, slurm.output[-4000:]
    assert slurm.requeued() == ["requeue 14711"] and "Traceback" not in slurm.output, slurm.output[-4000:]
    assert torch.load(last, weights_only=True)["global_step"] < 60
    assert slurm.end(slurm.start(script)) == 0, slurm.output[-4000:]
    assert "Resuming from" in slurm.output
    same_training(run_dir, whole)


@pytest.mark.parametrize(("number", "code", "requeued"), [(signal.SIGUSR1, 138, 1), (signal.SIGTERM, 143, 0)])
def test_a_job_whose_batch_shell_alone_is_signalled(data, whole, tmp_path, number, code, requeued) -> None:
    """`exec` makes the training the batch shell's process; no number of tasks is asked for."""
    slurm, run_dir = Slurm(tmp_path / "slurm"), tmp_path / "run"
    script = "exec " + shlex.join(["python", str(ROOT / "train.py"), *data, *LONG, f"run_dir={run_dir}"])
    job, last = slurm.start(script), run_dir / "checkpoints" / "last.ckpt"
    slurm.wait_for(last.is_file, job)
    job.send_signal(number)
    assert slurm.end(job, 30) == code, slurm.output[-4000:]
    assert slurm.requeued() == ["requeue 14711"] * requeued
    assert slurm.end(slurm.start(script)) == 0, slurm.output[-4000:]
    for name, value in weights(whole).items():
        assert torch.equal(weights(run_dir)[name].nan_to_num(), value.nan_to_num()), name
