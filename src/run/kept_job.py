"""A job of a list: one process at a time has it, and what becomes of each attempt at it is written down."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from umamba.files import write_json
from umamba.processes import took
from umamba.run.devices import Slot
from umamba.run.job_state import is_held
from umamba.run.jobs import Job

log = logging.getLogger(__name__)

_PATIENCE = 2.0  # s: who looks how a job stands holds its lock for a moment


@dataclass(frozen=True, kw_only=True)
class JobFiles(ABC):
    """Where a job runs, and where it is written down how it stands."""

    @property
    @abstractmethod
    def run_dir(self) -> Path:
        """Of train.py."""

    @abstractmethod
    def file(self, ending: str) -> Path:
        """Of ``.json``, see `state`; ``.lock``, which the process has that runs it; ``.log``, what that says."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What is known of it, with "attempts", a list of dictionaries; empty if it was never started.

        Raises:
            ValueError: The file is none of this kind.
        """

    @abstractmethod
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""

    def save(self, state: dict[str, Any]) -> None:
        """Write it."""
        self.file(".json").parent.mkdir(parents=True, exist_ok=True)
        write_json(state, self.file(".json"))

    def take(self) -> FileLock | None:
        """The lock, held until it is released; None if another process has the job."""
        lock = FileLock(self.file(".lock"))
        self.file(".lock").parent.mkdir(parents=True, exist_ok=True)
        return lock if took(lock, _PATIENCE, "have one process at a time run these jobs") else None

    def is_held(self) -> bool:
        """Whether a process has it, or its training is still ending."""
        return any(is_held(path) for path in (self.file(".lock"), self.run_dir / ".lock"))


@dataclass(kw_only=True)
class KeptJob(Job, ABC):
    """A job to run, of which each attempt is written down.

    Attributes:
        entry: Its files.
        state: What they say of it, while it runs.
    """

    entry: JobFiles
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: FileLock | None = field(default=None, repr=False)

    def begin(self, slot: Slot) -> bool:
        """Take it, unless another process has it or has done it."""
        lock = self.entry.take()
        if lock is None:
            log.info("%s: another process has it.", self.name)
            return False
        if self.entry.is_finished():
            log.info("%s was done in the meantime.", self.name)
            lock.release()
            return False
        self._lock, self.state = lock, self.state_before()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self.state["attempts"].append({"started": now, **self.facts(slot)})
        self.entry.save(self.state)
        return True

    def state_before(self) -> dict[str, Any]:
        """To which an attempt that begins is added."""
        return self.entry.state()

    @abstractmethod
    def facts(self, slot: Slot) -> dict[str, Any]:
        """Of an attempt that begins."""

    @property
    def attempt(self) -> dict[str, Any]:
        """The one that goes on."""
        return self.state["attempts"][-1]

    def end(self, code: int, reason: str | None, seconds: float) -> str | None:
        """Write down how it ended, and let go of it."""
        self.attempt.update({"exit_code": code, "seconds": round(seconds, 1)})
        if reason is not None:
            self.attempt["reason"] = reason
        self.entry.save(self.state)
        if self._lock is not None:
            self._lock.release()
        return reason
