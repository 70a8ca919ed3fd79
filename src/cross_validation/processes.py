"""Trainings of folds, each a process, as many at a time as there are places for."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from umamba.run.errors import environment_of_children
from umamba.run.stop import deferred, requested
from umamba.run.sweep import tied

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_LAST_LINES, _LONGEST_REASON = 3, 600


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one training at a time.

    Attributes:
        name: What messages call it.
        environment: What a training there has in its environment.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Job:
    fold: int
    slot: int
    process: subprocess.Popen[bytes]
    log: Path | None
    output: IO[bytes] | None

    def end(self) -> str | None:
        """After the process has ended: why it failed, None if it did not."""
        if self.output is not None:
            self.output.close()
        code = self.process.wait()
        if code == 0:
            return None
        said = "" if self.log is None else f": {_last_words(self.log)}"
        return f"ended with code {code}{said}"


def run_folds(commands: Mapping[int, Sequence[str]], folder: Path, slots: Sequence[Slot]) -> dict[int, str]:
    """Run the command of each fold; where several run at a time, each says what it says in <folder>/fold_<n>.log.

    A fold that fails stops no other.

    Args:
        commands: Fold -> command.
        folder: Where the logs are written.
        slots: A fold runs in each at a time.

    Returns:
        Fold -> why it failed.

    Raises:
        Stopped: A signal came; the trainings were given it and have ended, with their checkpoints.
    """
    waiting, failed = list(commands), dict[int, str]()
    running: list[_Job] = []
    with deferred():
        try:
            while (waiting or running) and not requested():
                free = [i for i in range(len(slots)) if all(job.slot != i for job in running)]
                for slot in free[: len(waiting)]:
                    running.append(_start(waiting[0], commands[waiting.pop(0)], slot, slots, folder))
                time.sleep(_POLL_SECONDS)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    reason = job.end()
                    if reason is not None:
                        failed[job.fold] = reason
                        log.error("Fold %d %s", job.fold, reason)
                    else:
                        log.info("Fold %d is trained.", job.fold)
        finally:
            _stop(running)
    return failed


def _start(fold: int, command: Sequence[str], slot: int, slots: Sequence[Slot], folder: Path) -> _Job:
    log_file, output = None, None
    if len(slots) > 1:
        log_file = folder / f"fold_{fold}.log"
        output = open(log_file, "ab")  # noqa: SIM115  # as long as the process
    log.info("Fold %d on %s%s.", fold, slots[slot].name, f", in {log_file}" if log_file else "")
    # What a scheduler says to this job is none of the trainings' business.
    kept = {key: value for key, value in environment_of_children().items() if not key.startswith("SLURM_")}
    process = subprocess.Popen(
        command, env={**kept, **slots[slot].environment, **tied()}, stdin=subprocess.DEVNULL,
        stdout=output, stderr=None if output is None else subprocess.STDOUT,
    )  # fmt: skip
    return _Job(fold=fold, slot=slot, process=process, log=log_file, output=output)


def _stop(running: Sequence[_Job]) -> None:
    """Tell those that run to stop with a checkpoint, and wait until they have."""
    for job in running:
        if job.process.poll() is None:
            job.process.send_signal(requested() or signal.SIGTERM)
    for job in running:
        job.end()


def _last_words(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:])[-_LONGEST_REASON:] or "it said nothing"
