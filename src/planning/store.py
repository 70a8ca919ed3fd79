"""The preprocessed store: one folder per case with compressed arrays that are read patch by patch.

A case is written beside its place and moved there whole, so that a case that exists is complete. Its description has
the checksums of its files and of itself, see `umamba.planning.sound_cases`.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from umamba.files import UNFINISHED, read_json, write_json
from umamba.names import name_fault
from umamba.planning.arrays import compress, open_array
from umamba.planning.checksums import checksum, json_checksum
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties, PreprocessedCase, annotated_locations, foreground_locations
from umamba.planning.previous_maps import PreviousMaps

log = logging.getLogger(__name__)

VERSION = 1  # of the format; raised when older stores cannot be read
META = "case.json"
FILES = (META, "data.b2nd", "label.b2nd", "locations.npy")  # all that a case's folder holds


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case on disk; arrays are read where they are sliced.

    Attributes:
        identifier: Name of the case.
        folder: Where it lies.
        data: (C, Z, Y, X) float32.
        label: (Z, Y, X) int16; -1 outside the non-zero mask.
        properties: For the way back to the original grid.
        location_counts: Foreground class (of regions: number, from 1) -> how many of its voxels are kept in
            `class_locations`.
        annotated_count: How many voxels are kept in `annotated_locations`.
        previous: (Z, Y, X) label map of the previous stage of a cascade; None where there is no such stage.
    """

    identifier: str
    folder: Path
    data: blosc2.NDArray | np.ndarray
    label: blosc2.NDArray | np.ndarray
    properties: CaseProperties
    location_counts: dict[int, int]
    annotated_count: int
    previous: blosc2.NDArray | np.ndarray | None = None

    def decoded(self) -> StoredCase:
        """The case with all its arrays in memory."""
        previous = None if self.previous is None else self.previous[:]
        return dataclasses.replace(self, data=self.data[:], label=self.label[:], previous=previous)

    @property
    def nbytes(self) -> int:
        """Of the arrays, decoded."""
        arrays = (self.data, self.label, self.previous)
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays if array is not None)

    @cached_property
    def class_locations(self) -> dict[int, np.ndarray]:
        """Per foreground class (n, 3) int32 coordinates (z, y, x) to centre patches on; n = 0 for an absent class."""
        rows = self._rows()
        ends = np.cumsum(list(self.location_counts.values()))
        return {c: rows[end - n : end] for (c, n), end in zip(self.location_counts.items(), ends, strict=True)}

    @cached_property
    def annotated_locations(self) -> np.ndarray:
        """(n, 3) coordinates of voxels that are not the ignore label; n = 0 for data sets without one."""
        rows = self._rows()
        return rows[len(rows) - self.annotated_count :]

    def _rows(self) -> np.ndarray:
        # As a plain array, whose voxels are picked in a fraction of the time
        return np.asarray(np.load(self.folder / "locations.npy", mmap_mode="r"))


@dataclass(frozen=True)
class Store:
    """The cases of one configuration's folder.

    Attributes:
        folder: Where they lie.
        identifiers: Their names.
        previous: What the previous stage of a cascade segmented in them; None where there is no such stage.
    """

    folder: Path
    identifiers: tuple[str, ...]
    previous: PreviousMaps | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """List the complete cases of a folder; no array is read.

        Args:
            folder: Of one configuration, below the prepared data set's.

        Raises:
            FileNotFoundError: The folder does not exist or holds no case.
        """
        folder = Path(folder)
        found = stored_identifiers(folder)
        if not found:
            raise FileNotFoundError(
                f"{folder} holds no preprocessed case. Prepare the data set: python -m umamba.planning data=<name>"
            )
        return cls(folder=folder, identifiers=found)

    def case(self, identifier: str) -> StoredCase:
        """Open one case: maps the files, decompresses nothing.

        Returns:
            The case, whose arrays are read where they are indexed.

        Raises:
            KeyError: The store has no such case.
            ValueError: The case was written in another format, or is damaged.
        """
        if identifier not in self.identifiers:
            raise KeyError(f"{self.folder} has no case {identifier!r}; it has {len(self.identifiers)} others.")
        folder = self.folder / identifier
        meta = read_meta(folder)
        if meta.get("version") != VERSION:
            raise ValueError(
                f"{folder} is not a stored case of format {VERSION}. Delete it and prepare the data set again."
            )
        try:
            data, label = open_array(folder / "data.b2nd"), open_array(folder / "label.b2nd")
        except (RuntimeError, FileNotFoundError) as error:
            raise ValueError(
                f"{folder} is damaged ({error}). Delete it and start again: the case is preprocessed anew."
            ) from error
        return StoredCase(
            identifier=identifier,
            folder=folder,
            data=data,
            label=label,
            properties=CaseProperties.from_dict(meta["properties"]),
            location_counts={int(c): n for c, n in meta["locations"].items()},
            annotated_count=meta["annotated"],
            previous=None if self.previous is None else self.previous.case(identifier),
        )


def write_case(
    folder: Path, identifier: str, case: PreprocessedCase, plan: Plan, patch_size: Sequence[int], key: str
) -> None:
    """Write one labelled case into a store, replacing an older one of that name.

    Args:
        folder: The store.
        identifier: Name of the case.
        case: The case, with its label.
        plan: Its labels say which locations are kept.
        patch_size: What will be read at once; it decides chunks and blocks.
        key: Recorded with the case; a case whose key has changed is stale.

    Raises:
        ValueError: The case has no label.
        OSError: The disk is full or cannot be written; nothing half-written stays in use.
    """
    if case.label is None:
        raise ValueError(f"Case {identifier} has no label; a store holds labelled cases.")
    beside, checksums = _beside(folder, identifier), {}

    def write(content: bytes | memoryview, name: str) -> None:
        checksums[name] = checksum(content)
        (beside / name).write_bytes(content)

    try:
        write(compress(case.data, patch_size), "data.b2nd")
        write(compress(case.label, patch_size), "label.b2nd")
        located, annotated = foreground_locations(case.label, plan), annotated_locations(case.label, plan)
        rows = io.BytesIO()
        np.save(rows, np.concatenate([*located.values(), annotated]))
        write(rows.getbuffer(), "locations.npy")  # NumPy's own writer does not say that a disk is full
        meta = {
            "version": VERSION,
            "key": key,
            "properties": dataclasses.asdict(case.properties),
            "locations": {str(value): len(rows) for value, rows in located.items()},
            "annotated": len(annotated),
        }
        write_json({**meta, "checksums": {**checksums, META: json_checksum(meta)}}, beside / META)
        remove_case(folder, identifier)
        os.replace(beside, folder / identifier)
    finally:
        _remove_files(beside)


def link_case(source: Path, folder: Path, identifier: str) -> bool:
    """Give a store a case of another one as hard links, which take no space and outlive the other store.

    Returns:
        Whether it worked; not every file system has links, and not every file may be linked.
    """
    beside = _beside(folder, identifier)
    try:
        for name in FILES:
            os.link(source / identifier / name, beside / name)
        remove_case(folder, identifier)
        os.replace(beside, folder / identifier)
    except OSError:
        return False
    finally:
        _remove_files(beside)
    return True


def remove_case(folder: Path, identifier: str) -> None:
    """Delete the files of a case that `write_case` writes, and no others (else ValueError).

    The description goes first, so that a half-deleted case does not count as one.
    """
    _check_name(identifier)
    _remove_files(folder / identifier)


def remove_unfinished_cases(folder: Path) -> None:
    """Delete what killed processes were writing into a store; only for one who holds the lock."""
    for beside in folder.glob(f"{UNFINISHED}*"):
        _remove_files(beside)


def stored_identifiers(folder: Path) -> tuple[str, ...]:
    """The cases that lie complete in a folder, sorted; none if there is no such folder."""
    return tuple(sorted(entry.parent.name for entry in folder.glob(f"[!.]*/{META}")))


def read_meta(folder: Path) -> dict[str, Any]:
    """What was recorded with a case; empty where there is none."""
    return read_json(folder / META)


def _check_name(identifier: str) -> None:
    fault = name_fault(identifier)
    if fault:
        raise ValueError(f"A case cannot be called {identifier!r}: {fault}.")


def _beside(folder: Path, identifier: str) -> Path:
    """An empty folder in which a case becomes whole."""
    _check_name(identifier)
    beside = folder / f"{UNFINISHED}{identifier}-{os.getpid()}"
    _remove_files(beside)
    beside.mkdir(parents=True)
    return beside


def _remove_files(case: Path) -> None:
    """Delete a case's folder if nothing else is in it; a link is not followed."""
    if case.is_symlink() or not case.is_dir():
        return
    for path in (*(case / name for name in FILES), *case.glob(f"{UNFINISHED}*")):
        path.unlink(missing_ok=True)
    try:
        case.rmdir()
    except OSError as error:
        log.warning("%s is left, for it holds files that are not of this project (%s).", case, error.strerror)
