"""Trainings as processes that end with the one that has started them, as many at a time as there are places."""

from __future__ import annotations

import logging
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from umamba.run.devices import Slot
from umamba.run.errors import REASON, environment_of_children
from umamba.run.job_state import STOPPED_CODES, in_one_line, last_words
from umamba.run.stop import deferred, requested
from umamba.run.sweep import tied

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@dataclass(kw_only=True)
class Job:
    """A training to run.

    Attributes:
        name: For people.
        command: Of its process.
        log: File to which it says what it says; None for where this process says it.
    """

    name: str
    command: Sequence[str]
    log: Path | None = None

    def begin(self, slot: Slot) -> bool:
        """Called before the process is started; whether it is to be."""
        return True

    def end(self, code: int, reason: str | None, seconds: float) -> None:
        """Called when the process has ended.

        Args:
            code: Its own, or minus the signal's number.
            reason: Why it failed, in one line; None if it is done.
            seconds: How long it ran.
        """


@dataclass(kw_only=True)
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None
    said: Path  # why it fails, by itself
    started: float = field(default_factory=time.monotonic)

    def end(self) -> str | None:
        """After the process has ended, or until it has: why it failed, None if it did not."""
        code = self.process.wait()
        if self.output is not None:
            self.output.close()
        reason = None if code == 0 else _reason(code, self.said, self.job.log)
        self.job.end(code, reason, time.monotonic() - self.started)
        return reason


def run_jobs(jobs: Sequence[Job], slots: Sequence[Slot]) -> dict[str, str]:
    """Run jobs in their order, each where most room is. One that fails stops no other.

    Args:
        jobs: To run; names differ.
        slots: A job runs in each at a time.

    Returns:
        Name -> why it failed.

    Raises:
        Stopped: A signal came; the jobs were given it and have ended, with their checkpoints.
    """
    waiting, failed = list(jobs), dict[str, str]()
    running: list[_Running] = []
    with deferred(), tempfile.TemporaryDirectory(prefix="umamba-") as folder:
        try:
            while (waiting or running) and not requested():
                while waiting and (slot := _emptiest(slots, running)) is not None:
                    job = waiting.pop(0)
                    if job.begin(slots[slot]):
                        said = Path(folder) / str(len(jobs) - len(waiting))
                        running.append(_start(job, slot, slots[slot], said))
                time.sleep(_POLL_SECONDS)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    reason = one.end()
                    if reason is not None:
                        failed[one.job.name] = reason
                        log.error("%s failed: %s", one.job.name, reason)
                    else:
                        log.info("%s is done.", one.job.name)
        finally:
            _stop(running)
    return failed


def child_environment() -> dict[str, str]:
    """Of a training that this process starts and that ends with it.

    What a scheduler says to this process is none of the training's business.
    """
    kept = {key: value for key, value in environment_of_children().items() if not key.startswith("SLURM_")}
    return {**kept, **tied()}


def _emptiest(slots: Sequence[Slot], running: Sequence[_Running]) -> int | None:
    """A free place, where the fewest run on its device; None if all are taken."""
    taken = {one.slot for one in running}
    free = [index for index in range(len(slots)) if index not in taken]
    beside = [slots[index].name for index in taken]
    return min(free, key=lambda index: beside.count(slots[index].name), default=None)


def _start(job: Job, index: int, slot: Slot, said: Path) -> _Running:
    log.info("%s on %s%s.", job.name, slot.name, f", in {job.log}" if job.log else "")
    output = None
    if job.log is not None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        output = open(job.log, "ab")  # noqa: SIM115  # as long as the process
    process = subprocess.Popen(
        job.command, env={**child_environment(), **slot.environment, REASON: str(said)}, stdin=subprocess.DEVNULL,
        stdout=output, stderr=None if output is None else subprocess.STDOUT,
    )  # fmt: skip
    return _Running(job=job, slot=index, process=process, output=output, said=said)


def _stop(running: Sequence[_Running]) -> None:
    """Tell those that run to stop with a checkpoint, and wait until they have."""
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(requested() or signal.SIGTERM)
    if running:
        log.info("Waiting for %s to end.", ", ".join(one.job.name for one in running))
    for one in running:
        one.end()


def _reason(code: int, said: Path, output: Path | None) -> str:
    """What a job that failed has said, in one line: its message, or its last words, or its code alone."""
    if code in STOPPED_CODES:
        number = -code if code < 0 else code - 128
        return f"ended by {signal.Signals(number).name}"
    words = in_one_line(said.read_text(encoding="utf-8")) if said.is_file() else last_words(output)
    return words or f"ended with code {code} and said nothing"
