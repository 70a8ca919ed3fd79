"""Trainings as processes that end with the one that has started them, as many at a time as there are places."""

from __future__ import annotations

import logging
import math
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

    def may_begin(self) -> bool:
        """Whether it may be started now; else those behind it are asked, and it again later."""
        return True

    def begin(self, slot: Slot) -> bool:
        """Called before the process is started; whether it is to be."""
        return True

    def passed(self, seconds: float, beside: int) -> None:
        """Called again and again while the process runs.

        Args:
            seconds: Since the last call.
            beside: Jobs on its device in them, this one included.
        """

    def end(self, code: int, reason: str | None, seconds: float) -> str | None:
        """Called when the process has ended.

        Args:
            code: Its own, or minus the signal's number.
            reason: Why it failed, in one line; None if it is done.
            seconds: How long it ran.

        Returns:
            Why it failed after all.
        """
        return reason


@dataclass(kw_only=True)
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None
    said: Path  # why it fails, by itself
    started: float = field(default_factory=time.monotonic)
    told: bool = False  # to stop


def run_jobs(
    jobs: Sequence[Job], slots: Sequence[Slot], *, until: float = math.inf, patience: float = math.inf
) -> dict[str, str]:
    """Run jobs in their order, each where most room is. One that fails stops no other.

    Args:
        jobs: To run; names differ.
        slots: A job runs in each at a time.
        until: Time of `time.monotonic` at which those that run are told to stop, as by a signal.
        patience: Seconds from then on after which those that have not ended are killed.

    Returns:
        Name -> why it failed.

    Raises:
        Stopped: A signal came; the jobs were given it and have ended, with their checkpoints.
    """
    with deferred(), tempfile.TemporaryDirectory(prefix="umamba-") as folder:
        pool = _Pool(jobs, slots, Path(folder))
        try:
            while not requested() and time.monotonic() < until and pool.start():
                pool.step()
        finally:
            pool.stop(patience)
    return pool.failed


class _Pool:
    """Jobs that wait, that run, and that failed."""

    def __init__(self, jobs: Sequence[Job], slots: Sequence[Slot], folder: Path) -> None:
        self.waiting, self.slots, self.folder = list(jobs), slots, folder
        self.running: list[_Running] = []
        self.failed: dict[str, str] = {}
        self._counted = time.monotonic()

    def start(self) -> bool:
        """Fill the places, each time on the emptiest device; whether any job runs."""
        while (slot := self._emptiest()) is not None:
            job = next((job for job in self.waiting if job.may_begin()), None)
            if job is None:
                break
            self.waiting.remove(job)
            if job.begin(self.slots[slot]):
                self.running.append(_start(job, slot, self.slots[slot], self.folder / str(len(self.waiting))))
        return bool(self.running)

    def step(self) -> None:
        """Wait a little, tell the jobs, and see who has ended."""
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        seconds, self._counted = now - self._counted, now
        on = [self.slots[one.slot].name for one in self.running]
        for one in self.running:
            one.job.passed(seconds, on.count(self.slots[one.slot].name))
        for one in [one for one in self.running if one.process.poll() is not None]:
            self._end(one)

    def stop(self, patience: float) -> None:
        """Tell those that run to stop with a checkpoint, and wait until they have; who takes too long is killed."""
        for one in self.running:
            one.told = True
            if one.process.poll() is None:
                one.process.send_signal(requested() or signal.SIGTERM)
        if self.running:
            log.info("Waiting for %s to end.", ", ".join(one.job.name for one in self.running))
        until = time.monotonic() + patience
        while self.running and time.monotonic() < until:
            self.step()
        for one in list(self.running):
            log.warning("%s has not ended within %.0f s of being told to, and is killed.", one.job.name, patience)
            one.process.kill()
            self._end(one)

    def _end(self, one: _Running) -> None:
        self.running.remove(one)
        code = one.process.wait()
        if one.output is not None:
            one.output.close()
        seconds = time.monotonic() - one.started
        reason = one.job.end(code, None if code == 0 else _reason(code, one.said, one.job.log), seconds)
        if reason is not None and not (one.told and code in STOPPED_CODES):
            self.failed[one.job.name] = reason
            log.error("%s failed: %s", one.job.name, reason)
        elif code == 0:
            log.info("%s is done.", one.job.name)

    def _emptiest(self) -> int | None:
        """A free place, where the fewest run on its device; None if all are taken."""
        taken = {one.slot for one in self.running}
        free = [index for index in range(len(self.slots)) if index not in taken]
        beside = [self.slots[index].name for index in taken]
        return min(free, key=lambda index: beside.count(self.slots[index].name), default=None)


def child_environment() -> dict[str, str]:
    """Of a training that this process starts and that ends with it.

    What a scheduler says to this process is none of the training's business.
    """
    kept = {key: value for key, value in environment_of_children().items() if not key.startswith("SLURM_")}
    return {**kept, **tied()}


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


def _reason(code: int, said: Path, output: Path | None) -> str:
    """What a job that failed has said, in one line: its message, or its last words, or its code alone."""
    if code in STOPPED_CODES:
        number = -code if code < 0 else code - 128
        return f"ended by {signal.Signals(number).name}"
    words = in_one_line(said.read_text(encoding="utf-8")) if said.is_file() else last_words(output)
    return words or f"ended with code {code} and said nothing"
