"""Plays SLURM for tests: runs the script of a batch job, signals it in both of sbatch's ways, runs it again if asked.

What is played is what SLURM's manual says: without ``B:`` a signal of ``--signal`` goes to the tasks that srun has
started and not to the batch shell, with it to the shell alone, whose children do not get it; when the shell has ended,
whatever it has left is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.models.rank_processes import free_port

SRUN = """#!{python}
import os, signal, subprocess, sys
tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
step = dict(SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS=str(tasks), SLURM_STEP_NUM_NODES=str(nodes))
each = tasks // nodes
running = [
    subprocess.Popen(sys.argv[1:], env=dict(os.environ, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i % each),
                                            SLURM_NODEID=str(i // each)))
    for i in range(tasks)
]
for number in (signal.SIGUSR1, signal.SIGTERM):  # srun passes on what it gets
    signal.signal(number, lambda number, frame: [task.send_signal(number) for task in running])
open({tasks!r}, "w").write(" ".join(str(task.pid) for task in running))
sys.exit(max(task.wait() for task in running))
"""


class Slurm:
    """A cluster of this machine, whose jobs run one at a time.

    Args:
        folder: For its programs and what the jobs say.
        variables: Of the jobs' environment.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.asked, self.tasks = folder, folder / "asked", folder / "tasks"
        self.shown = folder / "shown"  # what ``scontrol show job`` says
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, text in {
            "srun": SRUN.format(python=sys.executable, tasks=str(self.tasks)),
            "scontrol": f'#!/bin/sh\n[ "$1" = show ] && exec cat "{self.shown}"\necho "$@" >> "{self.asked}"\n',
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.show(preempted=False)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **kept, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "SLURM_JOB_ID": "14711",
            "SLURM_JOB_NAME": "mine", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0", "SLURM_NODELIST": "localhost",
            # Lightning's own port follows from the job's number: two suites at a time would wait for one another.
            "MASTER_PORT": str(free_port()), **variables,
        }  # fmt: skip

    def start(self, script: str) -> subprocess.Popen:
        """Run a batch script."""
        (self.folder / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
        with open(self.folder / "output", "ab") as output:
            return subprocess.Popen(
                ["bash", str(self.folder / "job.sh")], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def show(self, *, preempted: bool) -> None:
        """What is said of the job: as scontrol does of one that may be preempted."""
        time_of = "2026-01-02T03:04:05" if preempted else "None"
        self.shown.write_text(f"   PreemptEligibleTime=2026-01-02T03:00:00 PreemptTime={time_of}\n")

    def signal_tasks(self, number: int) -> None:
        """As ``--signal=USR1@120`` does."""
        for task in self.tasks.read_text().split():
            os.kill(int(task), number)

    def end(self, shell: subprocess.Popen, seconds: float = 240) -> int:
        """Wait for the end of the batch shell, and kill what it leaves."""
        try:
            return shell.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()

    def requeued(self) -> list[str]:
        """What scontrol was asked to do."""
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    def wait_for(self, condition: Callable[[], bool], shell: subprocess.Popen, seconds: float = 240) -> None:
        """Wait until the condition holds."""
        limit = time.monotonic() + seconds
        while not condition():
            if shell.poll() is not None or time.monotonic() > limit:
                self.end(shell, 0)
                raise AssertionError(self.output[-5000:])
            time.sleep(0.05)

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")
