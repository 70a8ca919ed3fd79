"""One training at a time in a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from umamba.files import read_json, remove_unfinished, write_json, writing_into
from umamba.processes import describe_process, this_process, took

_PATIENCE = 2.0  # s: workers of a killed run end within this and let go of what they inherited


class RunInUseError(RuntimeError):
    """Another process is training in this run's folder."""


@contextmanager
def locked_run(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder, made if need be, and clear away what killed processes were writing there.

    The operating system gives the lock back when its holder ends, however it ends.

    Raises:
        RunInUseError: another process holds it.
        OSError: the folder cannot be written to.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(run_dir / ".lock"), run_dir / ".holder.json"
    if not took(lock, _PATIENCE, "do not start two trainings with this run_dir"):
        raise RunInUseError(
            f"{run_dir} is in use by another training ({describe_process(read_json(holder))}). Wait for it, "
            "end it, or give this one another run_dir."
        )
    try:
        for folder in (run_dir, run_dir / "checkpoints"):
            remove_unfinished(folder)
        write_json(this_process(), holder)
        with writing_into(run_dir):
            yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
            lock.release()
