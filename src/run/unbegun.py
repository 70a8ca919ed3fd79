"""A call that is refused before its run has begun leaves nothing that looks like a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

# What is in a folder before a run has begun in it: Hydra's log file and list of a sweep, locks, the id of a W&B run
_BEFORE = frozenset({"train.log", "multirun.yaml", ".lock", ".holder.json", ".writers", "wandb_id"})


@contextmanager
def nothing_left(cfg: DictConfig) -> Iterator[None]:
    """Have an error take away the folder that Hydra has made for this call, unless a run has begun there.

    The message is on the console, and known to who has started this process; a call that was refused would otherwise
    leave one folder each time, among those of real runs.

    Args:
        cfg: Of train.py.
    """
    try:
        yield
    except Exception:
        remove_unbegun(Path(HydraConfig.get().runtime.output_dir), OmegaConf.select(cfg, "paths.runs"))
        raise


def remove_unbegun(folder: Path, runs: str | Path | None) -> None:
    """Remove a folder in which no run has begun; one that holds anything else, or is in use, stays as it is.

    So does the folder in which this process was started, and those above it.

    Args:
        folder: Of a run or a sweep.
        runs: Folder of all runs, if that is known: those between the two are removed where they are left empty.
    """
    folder = folder.absolute()
    with suppress(OSError):
        if not _is_unbegun(folder) or folder in (Path.cwd(), *Path.cwd().parents):
            return
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:  # another call is about to begin there
            return
        except NotImplementedError:  # the file system has no locks
            pass
        try:
            if _is_unbegun(folder):
                _close_logs(folder)
                for entry in [*folder.iterdir()]:
                    entry.unlink(missing_ok=True)
        finally:
            lock.release()
        folder.rmdir()
        while runs is not None and Path(os.path.abspath(runs)) in (folder := folder.parent).parents:
            folder.rmdir()  # until one is not empty


def _is_unbegun(folder: Path) -> bool:
    return folder.is_dir() and all(
        entry.name in _BEFORE and entry.is_file() and not entry.is_symlink() for entry in folder.iterdir()
    )


def _close_logs(folder: Path) -> None:
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, logging.FileHandler)]:
        if Path(handler.baseFilename).parent == folder:
            root.removeHandler(handler)
            handler.close()
