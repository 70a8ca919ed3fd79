"""One prediction at a time in a folder of label maps, which no name tells apart; parts of one prediction share it."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from umamba.files import fcntl, is_alone, read_json, write_json
from umamba.inference.mixture import differences
from umamba.processes import describe_process, this_process

log = logging.getLogger(__name__)

_CLAIM = ".predicting-{}.json"  # of each writer, locked by it


class PredictionInUseError(RuntimeError):
    """Another prediction is being written into the folder."""


@contextmanager
def claimed(folder: Path, record: str, made_by: Mapping[str, Any]) -> Iterator[None]:
    """Write, or read, the label maps of a folder while no other prediction is written there.

    Every writer says in a file of its own what it is, locks that, and only then looks at the others': of two at least
    one sees the other. The operating system gives the lock back when its holder ends, however it ends.

    Args:
        folder: Of the label maps; it exists.
        record: Name of what is written about them: one writer at a time for each.
        made_by: Networks and options; writers of other records that are made by the same ones may be at work too.

    Raises:
        PredictionInUseError: Another process, or another call in this one, writes other label maps there.
        OSError: The folder cannot be written to.
    """
    if fcntl is None:  # Windows
        yield
        return
    path = folder / _CLAIM.format(secrets.token_hex(8))
    descriptor = _publish(path, {**this_process(), "record": record, "made_by": dict(made_by)})
    try:
        if descriptor is None:
            log.warning("The file system of %s has no locks: do not start two predictions into this folder.", folder)
        else:
            _refuse_others(path, record, made_by)
        yield
    finally:
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _publish(path: Path, content: Mapping[str, Any]) -> int | None:
    """Descriptor of the file, whole and locked; None where there are no locks."""
    while True:
        write_json(content, path)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # taken for a dead one's before it was locked
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def _refuse_others(mine: Path, record: str, made_by: Mapping[str, Any]) -> None:
    for path in sorted(mine.parent.glob(_CLAIM.format("*"))):
        content = read_json(path)
        apart = differences(content.get("made_by", {}), made_by)
        if path == mine or not content or (content.get("record") != record and not apart):
            continue
        if not _is_left(path):
            other = f"a prediction that differs in {', '.join(apart)}" if apart else "the same prediction"
            raise PredictionInUseError(
                f"{mine.parent} is in use by {other} ({describe_process(content)}): label maps of both would be mixed "
                "there. Wait for it, end it, or give this one another output folder. Nothing was written."
            )


def _is_left(path: Path) -> bool:
    """Whether nobody holds it any more; it is then removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        left = is_alone(descriptor)
        if left:
            path.unlink(missing_ok=True)
        return left
    finally:
        os.close(descriptor)
