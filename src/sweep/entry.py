"""A job of a sweep, and what is known of it: <sweep>/jobs/<job>.json, beside which lie its lock and what it said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.run.devices import Slot
from umamba.run.job_state import read_state
from umamba.run.kept_job import JobFiles, KeptJob

FOLDER = "jobs"  # of a sweep's folder
_KEYS = ("number", "overrides", "asked")


@dataclass(frozen=True, kw_only=True)
class Entry(JobFiles):
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
        """See the base; beside the run, which a call that is refused leaves as it is."""
        return self.sweep / FOLDER / f"{self.name}{ending}"

    def state(self) -> dict[str, Any]:
        """{"number": ..., "overrides": [...], "asked": [...], "attempts": [...]}; empty if nothing is known.

        Raises:
            ValueError: The file is none of this kind.
        """
        return read_state(self.file(".json"), _KEYS, self.file(".json"))

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
class SweepJob(KeptJob):
    """A job of a sweep to run.

    Attributes:
        entry: Its files.
    """

    entry: Entry

    def facts(self, slot: Slot) -> dict[str, Any]:
        """See the base."""
        return {"place": slot.name, "asked": self.state["asked"]}
