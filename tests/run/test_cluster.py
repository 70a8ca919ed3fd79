"""Who has started the processes of a training: what SLURM and torchrun say, and what is refused before any wait."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from umamba.run import ranks, stop
from umamba.run.cluster import SrunEnvironment
from umamba.run.quiet import only_first_says
from umamba.trainer import make_trainer

BATCH = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "a", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
ASKED = {**BATCH, "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}  # the script of sbatch --ntasks=4
STEP = {**ASKED, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NNODES": "2"}
ELIGIBLE = "   PreemptEligibleTime=2026-01-02T03:00:00"
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2"}  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in TORCHRUN:
            monkeypatch.delenv(name)


def trainer(monkeypatch, variables: dict[str, str], **settings: object):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return make_trainer(OmegaConf.create({"_target_": "lightning.Trainer", "accelerator": "cpu", **settings}), [], [])


def environment(made) -> object:
    return made._accelerator_connector.cluster_environment


@pytest.mark.parametrize("variables", [{}, BATCH, ASKED, {**ASKED, "SLURM_NTASKS": "1"}])
def test_what_srun_has_not_started_starts_its_other_processes_itself(monkeypatch, variables) -> None:
    made = trainer(monkeypatch, variables, devices=2)
    assert isinstance(environment(made), LightningEnvironment) and made.strategy.launcher is not None
    assert made.world_size == 2


def test_a_user_in_a_job_of_slurm_is_no_task(monkeypatch) -> None:
    made = trainer(monkeypatch, {**STEP, "SLURM_JOB_NAME": "interactive"}, devices=2)
    assert isinstance(environment(made), LightningEnvironment)
    assert ranks.job_of_slurm() is None


def test_tasks_of_srun_are_as_many_processes_whose_signals_are_ours(monkeypatch) -> None:
    made = trainer(monkeypatch, {**STEP, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}, devices=2,
                   num_nodes=2)  # fmt: skip
    slurm = environment(made)
    assert isinstance(slurm, SrunEnvironment) and isinstance(slurm, SLURMEnvironment) and not slurm.auto_requeue
    assert (made.world_size, made.global_rank, made.node_rank) == (4, 3, 1)


def test_processes_of_torchrun(monkeypatch) -> None:
    made = trainer(monkeypatch, {**TORCHRUN, "RANK": "2", "GROUP_RANK": "1"}, devices=2, num_nodes=2)
    assert isinstance(environment(made), TorchElasticEnvironment)
    assert (made.world_size, made.global_rank, made.node_rank) == (4, 2, 1)


@pytest.mark.parametrize("variables", [{}, BATCH, {**ASKED, "SLURM_NNODES": "2"}, {"NODE_RANK": "1"}])
def test_several_nodes_that_nobody_has_started_are_refused(monkeypatch, variables) -> None:
    with pytest.raises(ValueError, match=r"num_nodes=2 needs somebody.*srun.*--ntasks-per-node=3.*torchrun"):
        trainer(monkeypatch, variables, devices=3, num_nodes=2)


@pytest.mark.parametrize(
    ("variables", "settings", "message"),
    [
        (STEP, {"devices": 4}, r"srun has started 4 process\(es\), 2 on each of 2 node.*Set trainer.devices=2 and"),
        (STEP, {"devices": 1}, r"srun has started 4 .*trainer.devices=1 and trainer.num_nodes=1 are 1"),
        (TORCHRUN, {"devices": 1}, r"torchrun has started 4 .*trainer.num_nodes=2"),
        (TORCHRUN, {"devices": 4}, r"torchrun has started 4 process\(es\), 2 on each of 2 node"),
    ],
)
def test_other_processes_than_the_trainer_was_told_of_are_refused(monkeypatch, variables, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(monkeypatch, variables, **settings)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch) -> Path:
    """A folder in which ``scontrol`` writes down what it was asked."""
    program, said = tmp_path / "bin" / "scontrol", tmp_path / "said"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = show ] && echo "$SHOWN" && exit\necho "$@" >> "{said}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return said


@pytest.fixture
def handlers(monkeypatch) -> Iterator[None]:
    """The signals' handlers are put back, and none has come yet."""
    before = {each: signal.getsignal(each) for each in stop.STOP_SIGNALS}
    monkeypatch.setattr(stop, "_requests", stop._Requests())
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # which a Trainer of another test has set
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("variables", "number", "asked"),
    [
        (BATCH, signal.SIGUSR1, "requeue 4711\n"),  # no number of tasks was asked for
        (ASKED, signal.SIGUSR1, "requeue 4711\n"),
        ({**BATCH, "SLURM_ARRAY_JOB_ID": "47", "SLURM_ARRAY_TASK_ID": "3"}, signal.SIGUSR1, "requeue 47_3\n"),
        (BATCH, signal.SIGTERM, ""),  # SLURM itself ends the job
        ({**BATCH, "SHOWN": "   PreemptTime=None SuspendTime=None SecsPreSuspend=0"}, signal.SIGTERM, ""),
        ({**BATCH, "SHOWN": f"{ELIGIBLE} PreemptTime=None"}, signal.SIGTERM, ""),
        ({**BATCH, "SHOWN": f"{ELIGIBLE} PreemptTime=2026-01-02T03:04:05"}, signal.SIGTERM, "requeue 4711\n"),
        ({**BATCH, "SHOWN": f"{ELIGIBLE} PreemptTime=2026-01-02T03:04:05"}, signal.SIGINT, ""),
        ({**BATCH, "SLURM_JOB_NAME": "interactive"}, signal.SIGUSR1, ""),
        ({}, signal.SIGUSR1, ""),
    ],
)
def test_a_job_is_run_again_after_sigusr1_and_preemption(
    monkeypatch, scontrol: Path, variables: dict[str, str], number: int, asked: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended, stop.ends_on_signals():
        os.kill(os.getpid(), number)
        signal.pause()
    assert ended.value.code == 128 + number
    assert (scontrol.read_text() if scontrol.exists() else "") == asked


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.usefixtures("handlers")
def test_a_job_is_run_again_where_sigterm_comes_before_sigusr1(monkeypatch, scontrol: Path) -> None:
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended, stop.ends_on_signals(), stop.deferred():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
    assert ended.value.code == 128 + signal.SIGTERM and scontrol.read_text() == "requeue 4711\n"


@pytest.mark.parametrize(("rank", "said"), [(0, ["a plan", "a warning"]), (1, ["a warning"])])
def test_what_the_first_process_says_the_others_do_not_repeat(monkeypatch, caplog, rank: int, said: list[str]) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    caplog.set_level(logging.INFO)
    with only_first_says():
        logging.getLogger("umamba.any").info("a plan")
        logging.getLogger("umamba.any").warning("a warning")
    assert caplog.messages == said and logging.getLogger().level == logging.INFO
