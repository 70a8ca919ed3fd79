"""Which raw files a preparation was made of: by their content, which is read only where the file system is in doubt.

``<prepared_dir>/raw_files.json`` has stamp and hash of each training file, see `umamba.raw.file_identity`. A file whose
stamp is another one is hashed: with the content that it had, it is the file it was. It also has what is known of the
voxels, see `umamba.raw.image_marks`; they are hashed when the cases are read for their fingerprint.

Cost: each file is read once more than its preparation needs, when it is first met and after it was copied or moved.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from umamba.files import amount, read_json, write_json
from umamba.planning.locking import NO_ROOM, READ_ONLY, write_record
from umamba.raw.dataset import RawCase, RawDataset
from umamba.raw.file_identity import file_content, file_stamp
from umamba.words import count

log = logging.getLogger(__name__)

_NAME = "raw_files.json"


@dataclass(kw_only=True)
class RawFiles:
    """The training files of a data set, as they are now.

    Attributes:
        keys: Case -> what tells its files from others of their names; see `_key`.
        records: File -> {"stamp", "content", "first", "voxels"}, to be kept; None where nothing can be kept.
        path: Where.
        changed: Whether they are others than those kept there.
    """

    keys: Mapping[str, list[Any]]
    records: dict[str, Any] | None
    path: Path
    changed: bool = False

    @classmethod
    def read(cls, raw: RawDataset, prepared_dir: Path, workers: int) -> Self:
        """Look at the files, and hash those that the file system does not show to be unchanged.

        Args:
            raw: The data set.
            prepared_dir: Of the data set, locked. On a read-only or full disk a preparation that has no hashes is used
                without: its files are known by name, size and time alone.
            workers: Files to hash at once.
        """
        path = prepared_dir / _NAME
        files = {case.identifier: _files(case) for case in raw.training_cases}
        before = _records(path)
        if before is None:
            return cls(keys={name: [name, *map(file_key, own)] for name, own in files.items()}, records=None, path=path)
        stamps = {file: file_stamp(file) for own in files.values() for file in own}
        names = {file: _name(file, raw.folder) for file in stamps}
        unsure = [file for file, stamp in stamps.items() if before.get(names[file], {}).get("stamp") != stamp]
        if unsure:
            size = amount(sum(stamps[file][0] for file in unsure))
            log.info("Hashing %s, %s, to recognise them later.", count(len(unsure), "raw file"), size)
        with ThreadPoolExecutor(max(1, workers)) as threads:
            hashed = dict(zip(unsure, threads.map(file_content, unsure), strict=True))
        records = dict(before)
        for file, content in hashed.items():
            stamp, record = stamps[file], before.get(names[file], {})
            first = {_moment(stamp): content, **record.get("first", {})}
            kept = {"voxels": record["voxels"]} if "voxels" in record and record["content"] == content else {}
            records[names[file]] = {"stamp": stamp, "content": content, "first": first, **kept}
        keys = {name: [name, *(_key(file, records[names[file]]) for file in own)] for name, own in files.items()}
        return cls(keys=keys, records=records, path=path, changed=bool(unsure))

    def of_unknown_voxels(self, raw: RawDataset) -> list[RawCase]:
        """Cases whose voxels are to be hashed yet: prepared by an earlier version; none where that cannot be kept."""
        if self.records is None or not os.access(self.path, os.W_OK):
            return []
        known = {name for name, record in self.records.items() if "voxels" in record}
        return [
            case for case in raw.training_cases if any(_name(file, raw.folder) not in known for file in _files(case))
        ]

    def note_voxels(self, case: RawCase, folder: Path, marks: Sequence[str]) -> None:
        """Take over what `voxel_marks` says of a case's files, to be saved."""
        if self.records is None:
            return
        for file, voxels in zip(_files(case), marks, strict=True):
            record = self.records[_name(file, folder)]
            self.changed = self.changed or record.get("voxels") != voxels
            record["voxels"] = voxels

    def save(self) -> None:
        """Keep what was found out; on a read-only or full disk it is found out again by the next call."""
        if self.records is not None and self.changed:
            write_record(self.records, self.path)


def contents(files: Sequence[Path], folder: Path, prepared_dir: Path) -> dict[Path, str]:
    """What training files hold, as `file_content` says it; read only where the preparation does not know it."""
    known = _known(files, folder, prepared_dir)
    return {file: known[file]["content"] if file in known else file_content(file) for file in files}


def known_voxels(files: Sequence[Path], folder: Path, prepared_dir: Path) -> dict[Path, str]:
    """What the preparation knows of the voxels of training files, see `umamba.raw.image_marks`; nothing is read."""
    known = _known(files, folder, prepared_dir)
    return {file: record["voxels"] for file, record in known.items() if "voxels" in record}


def _known(files: Sequence[Path], folder: Path, prepared_dir: Path) -> dict[Path, dict[str, Any]]:
    """The records of those files that the file system shows as they were."""
    records = read_json(prepared_dir / _NAME)
    found = {file: records.get(_name(file, folder)) for file in files}
    return {file: record for file, record in found.items() if record and record.get("stamp") == file_stamp(file)}


def file_key(path: Path) -> list[Any]:
    """Name, size in bytes and time of the last change in ns."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _key(path: Path, record: Mapping[str, Any]) -> list[Any]:
    """As `file_key`; with the content's hash where another content had this name, size and time before."""
    size, changed = record["stamp"][:2]
    first = record["first"][_moment(record["stamp"])] == record["content"]
    return [path.name, size, changed] if first else [path.name, size, changed, record["content"]]


def _moment(stamp: list[int]) -> str:
    return f"{stamp[0]} {stamp[1]}"


def _files(case: RawCase) -> list[Path]:
    return [path for path in (*case.images, case.label) if path is not None]


def _name(path: Path, folder: Path) -> str:
    """The same wherever the data set lies."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _records(path: Path) -> dict[str, Any] | None:
    """What is known so far; None if nothing is and nothing can be kept."""
    if not path.is_file():
        try:
            write_json({}, path)
        except OSError as error:
            if error.errno not in READ_ONLY + NO_ROOM:
                raise
            return None
    return read_json(path)
