"""One training at a time in a run's folder."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from umamba.files import remove_unfinished, write_json, writing_into

log = logging.getLogger(__name__)

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
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        raise RunInUseError(
            f"{run_dir} is in use by another training ({_describe(holder)}). Wait for it, end it, or give this one "
            "another run_dir."
        ) from None
    except NotImplementedError:
        log.warning("The file system of %s has no locks: do not start two trainings with this run_dir.", run_dir)
    try:
        for folder in (run_dir, run_dir / "checkpoints"):
            remove_unfinished(folder)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json({"host": socket.gethostname(), "pid": os.getpid(), "since": since}, holder)
        with writing_into(run_dir):
            yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
            lock.release()


def _describe(holder: Path) -> str:
    try:
        content = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, KeyError):
        return "it has not said yet which process it is"
