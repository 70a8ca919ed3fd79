"""Which of a run's processes this is: the first, one that Lightning started from it, or one that a cluster started."""

from __future__ import annotations

import os

from umamba.processes import follow

_INTERACTIVE = ("bash", "interactive")  # names of SLURM's jobs in which a user types
_FIRST = "UMAMBA_FIRST_PROCESS"  # in the environment: id of the process from which Lightning starts the others


def announce_first() -> None:
    """In a run's first process: let those that Lightning starts from it know."""
    os.environ[_FIRST] = str(os.getpid())


def is_started_from_first() -> bool:
    """Whether Lightning started this process, with the command of the run's first one."""
    return os.environ.get(_FIRST, str(os.getpid())) != str(os.getpid()) and not is_first()


def is_first() -> bool:
    """Whether this process keeps the run's folder."""
    from lightning.pytorch.utilities import rank_zero_only  # seconds, which commands that train nothing do without

    return rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning sets it outside of the function


def follow_first() -> None:
    """End at once when the first process is gone: without it the others wait for a message that never comes."""
    follow(int(os.environ[_FIRST]), lambda: os._exit(1))


def follow_if_started() -> None:
    """As `follow_first` in a process that Lightning has started, before the imports that take seconds."""
    if os.environ.get(_FIRST) == str(os.getppid()):
        follow_first()


def job_of_slurm() -> str | None:
    """The batch job of SLURM in which this process runs, as ``scontrol`` names it; None if there is none.

    Other than Lightning's, this is known also where no number of tasks was asked for and where srun is not used.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else job


def tasks_of_srun() -> int:
    """How many processes srun has started, of which this is one; 1 where it was not srun.

    What sbatch was asked for (``--ntasks``) says nothing: its script is one process.
    """
    if "SLURM_STEP_ID" not in os.environ or job_of_slurm() is None:
        return 1
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)


def started_outside() -> int:
    """How many processes of one run torchrun or srun has started, of which this is one; 1 if neither has."""
    elastic = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    return max(elastic, tasks_of_srun())
