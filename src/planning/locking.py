"""One preparation at a time, and disk errors that say what to do."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from umamba.files import FULL, amount, remove_unfinished, write_json
from umamba.processes import took

log = logging.getLogger(__name__)

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_ROOM = (*FULL, errno.EFBIG)


class DiskError(OSError):
    """The disk of the prepared data is full or cannot be written to."""


@contextmanager
def locked(prepared_dir: Path) -> Iterator[None]:
    """Hold a folder's lock, making the folder if need be; what killed processes were writing there is cleared away.

    A folder on a read-only disk is not locked: what is finished there can be used, and what is not fails where it wants
    to write.

    Raises:
        DiskError: the folder cannot be made, or the disk failed within the block.
    """
    with disk_errors(prepared_dir):
        prepared_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(prepared_dir / ".lock")
        try:
            if not took(lock, 1, "do not start two preparations of it"):
                log.info("Waiting for another process that prepares %s", prepared_dir)
                lock.acquire()
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            log.info("%s cannot be locked (%s); it is read-only.", prepared_dir, error.strerror)
        if lock.is_locked:
            with suppress(OSError):  # what stays is in nobody's way
                remove_unfinished(prepared_dir)
        try:
            yield
        finally:
            lock.release()


@contextmanager
def disk_errors(prepared_dir: Path, needed: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn errors of a full or read-only disk into a DiskError with the folder, what it has and what is needed.

    Raises:
        DiskError: the disk was full or could not be written to within the block.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if error.errno not in READ_ONLY + NO_ROOM:
            raise
        existing = next(path for path in (prepared_dir, *prepared_dir.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        need = f"; the preprocessed data need up to {amount(needed())}" if needed else ""
        raise DiskError(
            error.errno,
            f"{error.strerror}: cannot write to {prepared_dir} ({amount(free)} free{need}). Free some space or point "
            "paths.prepared at another disk; what is finished is kept and the rest is picked up from there",
        ) from error


def write_record(record: Mapping[str, Any], path: Path, tolerated: tuple[int, ...] = READ_ONLY + NO_ROOM) -> None:
    """Bring a JSON file up to date that work can go on without; where that cannot be done it is said.

    Raises:
        OSError: Of another number than the tolerated ones.
    """
    try:
        write_json(record, path)
    except OSError as error:
        if error.errno not in tolerated:
            raise
        log.info("%s is not brought up to date (%s).", path, error.strerror)
