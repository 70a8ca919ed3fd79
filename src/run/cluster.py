"""Who has started the processes of a training, and whether they are as many as its Trainer was told."""

from __future__ import annotations

import os

import lightning as L
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from umamba.run import ranks

_STARTERS: dict[type, str] = {TorchElasticEnvironment: "torchrun"}


class SrunEnvironment(SLURMEnvironment):
    """The processes that srun has started. What a signal does is decided by `umamba.run.stop`, not by Lightning."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """It was: `choose_environment` has seen it."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """``--ntasks`` will do where ``--ntasks-per-node`` is not given: `check_processes` compares the numbers."""


_STARTERS[SrunEnvironment] = "srun"


def choose_environment() -> ClusterEnvironment | None:
    """What Lightning is to think of the processes of this run; None where it finds that out rightly by itself.

    It takes every process of a job in which ``--ntasks`` was asked for as one that srun has started: a script of sbatch
    then waits for others for ever, or trains on one of several devices.
    """
    if TorchElasticEnvironment.detect():
        return None
    if ranks.tasks_of_srun() > 1:
        return SrunEnvironment()
    return LightningEnvironment() if "SLURM_NTASKS" in os.environ else None


def check_processes(trainer: L.Trainer) -> None:
    """Refuse a training of other processes than there are, which would wait for the rest or leave some out.

    Raises:
        ValueError: With what to set.
    """
    environment = trainer._accelerator_connector.cluster_environment
    devices, nodes = trainer.num_devices, trainer.num_nodes
    if isinstance(environment, LightningEnvironment):
        if nodes > 1:
            raise ValueError(
                f"trainer.num_nodes={nodes} needs somebody who starts a process for each device of each node, and "
                f"nobody has: this process would wait for the others for ever. Put `srun` before python in a job of "
                f"SLURM with --nodes={nodes} --ntasks-per-node={devices}, or start it on each node with `torchrun "
                f"--nnodes={nodes} --nproc-per-node={devices} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT`."
            )
        return
    started = environment.world_size()
    each, there = _per_node(environment, started, nodes)
    if (devices, nodes) != (each, there):
        who = _STARTERS.get(type(environment), type(environment).__name__)
        raise ValueError(
            f"{who} has started {started} process(es), {each} on each of {there} node(s), but "
            f"trainer.devices={devices} and trainer.num_nodes={nodes} are {devices * nodes}. Set "
            f"trainer.devices={each} and trainer.num_nodes={there}, or let {who} start as many."
        )


def _per_node(environment: ClusterEnvironment, started: int, asked: int) -> tuple[int, int]:
    """Processes on each node, and nodes; where nobody says how many those are, as many as were asked for."""
    if isinstance(environment, TorchElasticEnvironment):
        each = int(os.environ.get("LOCAL_WORLD_SIZE", started))
        return each, started // each
    if isinstance(environment, SLURMEnvironment):
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)
        return started // nodes, nodes
    return started // asked, asked
