"""One training at a time in a run's folder, which may have come from somebody else: no link in it leads elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from umamba.files import OUTPUT_FOLDERS, read_json, remove_unfinished, write_json, writing_into
from umamba.processes import describe_process, this_process, took
from umamba.run.compare import ResumeError

_PATIENCE = 2.0  # s: workers of a killed run end within this and let go of what they inherited
_WANDB = "wandb"
_FOLDERS = (*OUTPUT_FOLDERS, "checkpoints")  # whose files a run replaces


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


def refuse_links(folder: Path) -> None:
    """See that no entry of a run's folder is a link that leads out of it; the folder itself may be one.

    Through such a link a run would append its log, or write its label maps, to files of the user's that whoever made
    the folder chose. Reading through one (a configuration, a checkpoint, scores) is no danger of this kind: it is done
    with the user's own rights, and nothing is run or passed on of what is read. A hard link cannot be told from a file.

    Raises:
        ResumeError: there is one; the run's log file, if it is not open yet, is not opened any more.
    """
    real = folder.resolve()
    away = [entry for entry in _entries(folder) if entry.is_symlink() and not _is_below(entry, real)]
    if not away:
        return
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, logging.FileHandler)]:
        root.removeHandler(handler)
    raise ResumeError(
        f"{away[0]} is a link to {os.path.realpath(away[0])}, out of the run's folder: what the run writes would go "
        "there. Put the file or folder itself in its place, or give another run_dir."
    )


def _entries(folder: Path) -> Iterator[Path]:
    for name in _FOLDERS:
        inner = folder / name
        if inner.is_dir() and (inner == folder or not inner.is_symlink()):
            yield from inner.iterdir()
    if not (folder / _WANDB).is_symlink():
        yield from (folder / _WANDB).rglob("*")  # at any depth: W&B writes there; its own links stay within


def _is_below(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # a link to itself
        return False
