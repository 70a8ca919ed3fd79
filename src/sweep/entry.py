"""A job of a sweep, and what is known of it: <sweep>/jobs/<job>.json, beside which lie its lock and what it said."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from umamba.files import write_json
from umamba.run.devices import Slot
from umamba.run.job_state import read_state, take
from umamba.run.jobs import Job

log = logging.getLogger(__name__)

FOLDER = "jobs"  # of a sweep's folder
_PATIENCE = 2.0  # s
_KEYS = ("number", "overrides", "asked")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The files of a job.

    Attributes:
        sweep: The sweep's folder.
        name: The job's folder in it.
    """

    sweep: Path
    name: str

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.sweep / self.name

    def file(self, ending: str) -> Path:
        """One of its files beside the run, which a call that is refused leaves as it is."""
        return self.sweep / FOLDER / f"{self.name}{ending}"

    def state(self) -> dict[str, Any]:
        """{"number": ..., "overrides": [...], "asked": [...], "attempts": [...]}; empty if nothing is known.

        Raises:
            ValueError: The file is none of this kind.
        """
        return read_state(self.file(".json"), _KEYS, self.file(".json"))

    def save(self, state: dict[str, Any]) -> None:
        """Write it."""
        self.file(".json").parent.mkdir(parents=True, exist_ok=True)
        write_json(state, self.file(".json"))

    def take(self) -> FileLock | None:
        """Its lock, held until it is released; None if another process has the job."""
        lock = FileLock(self.file(".lock"))
        return lock if take(lock, _PATIENCE, "this sweep") else None

    def update(self, **changes: Any) -> None:
        """Change what is known of it, unless a process has it now and writes that down itself."""
        lock = self.take()
        if lock is not None:
            self.save({"attempts": [], **self.state(), **changes})
            lock.release()

    def is_finished(self) -> bool:
        """Whether what is asked of it now has been done, and is still there."""
        state = self.state()
        last = state["attempts"][-1] if state.get("attempts") else {}
        return last.get("exit_code") == 0 and last["asked"] == state["asked"] and self.run_dir.is_dir()


@dataclass(kw_only=True)
class SweepJob(Job):
    """A job of a sweep to run: one process at a time has it, and what becomes of it is written down.

    Attributes:
        entry: Its files.
    """

    entry: Entry
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
        self._lock = lock
        state = self.entry.state()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        state["attempts"].append({"started": now, "place": slot.name, "asked": state["asked"]})
        self.entry.save(state)
        return True

    def end(self, code: int, reason: str | None, seconds: float) -> str | None:
        """Write down how it ended, and let go of it."""
        state = self.entry.state()
        state["attempts"][-1] |= {"exit_code": code, "reason": reason, "seconds": round(seconds, 1)}
        self.entry.save(state)
        if self._lock is not None:
            self._lock.release()
        return reason
