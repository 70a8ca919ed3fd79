"""One job of a sweep, as a batch job of SLURM runs it: ``python -m umamba.sweep.job SWEEP JOB COMMAND...``.

Stands between SLURM and the training: passes its signals on, writes down how the job stands, and has it run again after
SIGUSR1. The batch script that calls it is written by ``hydra/launcher=slurm``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from umamba.run.devices import Slot
from umamba.run.errors import explained
from umamba.run.jobs import run_jobs
from umamba.run.ranks import job_of_slurm
from umamba.run.stop import ends_on_signals
from umamba.sweep.entry import Entry, SweepJob


def main(arguments: Sequence[str]) -> None:
    """See the module.

    Raises:
        ValueError: It is called otherwise, or the sweep has no such job.
        RuntimeError: The job failed.
    """
    if len(arguments) < 3:
        raise ValueError("Expected a sweep's folder, the name of a job in it, and the command of that.")
    sweep, name, *command = arguments
    entry = Entry(sweep=Path(sweep), name=name)
    if not entry.state():
        raise ValueError(f"{sweep} has no job {name}: there is no {entry.file('.json')}.")
    place = Slot(name=f"SLURM {job_of_slurm()} on {os.uname().nodename}")
    failed = run_jobs([SweepJob(name=name, command=command, entry=entry)], [place])
    if failed:
        raise RuntimeError(f"{name} failed: {failed[name]}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    with ends_on_signals(), explained():
        main(sys.argv[1:])
