"""A call that is refused before its run has begun leaves everything as it was: no folder, and no line in a log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from umamba.processes import took
from umamba.run.sweep import speaking_of

# What is in a folder before a run has begun in it: Hydra's log file and list of a sweep, locks, the id of a W&B run
_BEFORE = frozenset({"train.log", "multirun.yaml", ".lock", ".holder.json", ".writers", "wandb_id"})
_MANY = 100_000  # lines, more than are said before a run has begun


class Before(Callback):
    """Hydra's callback that looks at a call's folder before Hydra makes it."""

    there: frozenset[Path] | None = None  # the folder, what is in it, and the folders above; None: nobody has looked

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look at the folder of a run."""
        Before.there = what_is_there(_resolved(config, "hydra.run.dir"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look at the folder of a sweep."""
        Before.there = what_is_there(_resolved(config, "hydra.sweep.dir"))


@contextmanager
def nothing_left() -> Iterator[None]:
    """Have an error take away what this call has made in its folder, unless a run has begun there.

    The message is on the console, and known to who has started this process; a call that was refused would otherwise
    leave one folder each time, among those of real runs. Lines for the log file wait for `say_held`.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    for handler in _files_of(folder):
        logging.getLogger().removeHandler(handler)
        logging.getLogger().addHandler(_Held(handler))
    try:
        yield
    except Exception:
        _end_held()
        remove_unbegun(folder, Before.there)
        raise
    finally:
        say_held()


def say_held() -> None:
    """Write the lines that have waited into the log file, and those to come at once: the folder is this call's."""
    for file in _end_held(say=True):
        logging.getLogger().addHandler(file)


@contextmanager
def said_at_once(folder: Path) -> Iterator[None]:
    """Have lines of long work in a folder that is this process's in its log file at once; an error takes them away."""
    logs = log_sizes(folder)
    say_held()
    try:
        yield
    except Exception:
        restore_logs(logs)
        raise


def log_sizes(folder: Path) -> dict[Path, int | None]:
    """The log files that this process is to write in a folder, with their bytes as they are; None: not there."""
    held = [each.target for each in logging.getLogger().handlers if isinstance(each, _Held)]
    files = [Path(file.baseFilename) for file in (*held, *_files_of(folder)) if isinstance(file, logging.FileHandler)]
    return {path: path.stat().st_size if path.exists() else None for path in files if path.parent == folder}


def restore_logs(sizes: Mapping[Path, int | None]) -> None:
    """Have log files as they were, and write no more into them; to be called while the folder is this process's."""
    for path, size in sizes.items():
        close_logs(path.parent)
        with suppress(OSError):
            if size is None:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)


def remove_unbegun(folder: Path, there: frozenset[Path] | None) -> None:
    """Remove what a call has made in a folder in which no run has begun; one that is in use stays as it is.

    So does one in which anything else is new, and a folder that was there before, without what the call has made in it.

    Args:
        folder: Of a run or a sweep.
        there: What was there before the call, see `what_is_there`; it stays. None: unknown, and so all stays.
    """
    folder = Path(os.path.abspath(folder))
    with suppress(OSError):
        if there is None or not _is_unbegun(folder, there):
            return
        lock = FileLock(folder / ".lock")
        if not took(lock, 0):  # another call is about to begin there
            return
        try:
            if _is_unbegun(folder, there):
                close_logs(folder)
                for entry in [*folder.iterdir()]:
                    if entry not in there:
                        entry.unlink(missing_ok=True)
        finally:
            lock.release()
        while folder not in {*there, Path.cwd(), *Path.cwd().parents}:
            folder.rmdir()  # until one is not empty
            folder = folder.parent


def what_is_there(folder: Path | str) -> frozenset[Path]:
    """A folder and those above it, as far as they are there, and its entries; absolute."""
    folder = Path(os.path.abspath(folder))
    entries = folder.iterdir() if folder.is_dir() else ()
    return frozenset([*(path for path in (folder, *folder.parents) if path.exists()), *entries])


def close_logs(folder: Path) -> None:
    """Write no more into the log files in a folder."""
    for handler in _files_of(folder):
        logging.getLogger().removeHandler(handler)
        handler.close()


def _resolved(config: DictConfig, key: str) -> str:
    """A value that may be made of Hydra's own, as that of a job is."""
    with speaking_of(config):
        return str(OmegaConf.select(config, key))


class _Held(MemoryHandler):
    """Keeps the lines for a log file."""

    def __init__(self, target: logging.FileHandler) -> None:
        super().__init__(_MANY, flushLevel=logging.CRITICAL + 1, target=target)


def _end_held(*, say: bool = False) -> list[logging.Handler]:
    """Keep no lines any more; those that were kept are written, or dropped. Gives their log files."""
    root = logging.getLogger()
    held = [each for each in root.handlers if isinstance(each, _Held)]
    files = [each.target for each in held if each.target is not None]
    for each in held:
        root.removeHandler(each)
        if not say:
            each.buffer.clear()
        each.close()
    return files


def _files_of(folder: Path) -> list[logging.FileHandler]:
    files = [each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]
    return [each for each in files if Path(each.baseFilename).parent == folder]


def _is_unbegun(folder: Path, there: frozenset[Path]) -> bool:
    new = [entry for entry in folder.iterdir() if entry not in there] if folder.is_dir() else None
    return new is not None and all(e.name in _BEFORE and e.is_file() and not e.is_symlink() for e in new)
