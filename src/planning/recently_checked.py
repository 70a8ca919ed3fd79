"""Which kept files were found as they were written within a day, and need not be read again.

As long as the file system shows them unchanged: so that the jobs of a sweep, the processes of a run and the folds of a
cascade do not read a data set each. ``<prepared_dir>/checked.json`` keeps when that was.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from umamba.files import read_json
from umamba.planning.locking import NO_ROOM, READ_ONLY, write_record

_NAME = "checked.json"
_VALID = 24 * 3600  # s: a disk may lose what it has without a sign; a training reads a store many times a day


class RecentlyChecked:
    """What is kept of the cases in a folder.

    Args:
        folder: In a prepared folder.
        stamps: Case -> `umamba.raw.file_identity.file_stamp` of its files, one after the other, as they are now.
    """

    def __init__(self, folder: Path, stamps: Mapping[str, list[int]]) -> None:
        self._folder, self._path, self._stamps = folder, folder.parent / _NAME, stamps
        self._known, self._now = read_json(self._path), time.time()

    def unsure(self) -> list[str]:
        """The cases that are to be read."""
        return [name for name in self._stamps if not self._is_recent(name)]

    def keep(self, sound: Iterable[str]) -> None:
        """Keep that cases are as they were written, and what is known of folders that are there.

        On a read-only or full disk the next call reads the cases again.
        """
        now = {self._key(name): {"stamp": self._stamps[name], "at": self._now} for name in sound}
        there = {folder.name for folder in self._path.parent.iterdir() if folder.is_dir()}
        known = {**self._known, **now}
        # Whoever locks the prepared folder meanwhile may clear away what is being written there: no harm, as above
        tolerated = (*READ_ONLY, *NO_ROOM, errno.ENOENT)
        write_record({key: one for key, one in known.items() if key.split("/")[0] in there}, self._path, tolerated)

    def _key(self, name: str) -> str:
        return f"{self._folder.name}/{name}"

    def _is_recent(self, name: str) -> bool:
        record: Any = self._known.get(self._key(name))
        if not isinstance(record, dict) or record.get("stamp") != self._stamps[name]:
            return False
        at = record.get("at")
        return isinstance(at, int | float) and 0 <= self._now - at < _VALID  # of the future: of a clock that was wrong
