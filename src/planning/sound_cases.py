"""Whether stored cases are still as they were written: looked at by each start of a training, before they are read.

A disk or a copy that changes a byte makes other voxels of a whole block, which no reader notices. Cases are read once
for it, about 1 GB/s a thread from memory; not those of `RecentlyChecked`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from umamba.files import amount
from umamba.planning.checksums import RecentlyChecked, fault_of, json_checksum
from umamba.planning.store import FILES, META, read_meta
from umamba.raw.file_identity import file_stamp
from umamba.words import count, listed

log = logging.getLogger(__name__)

_LARGE = 4e9  # bytes: reading them may take long enough to be announced


def damaged_cases(folder: Path, identifiers: Iterable[str], workers: int) -> set[str]:
    """The cases of a store that are not as they were written; each is said, with what is wrong with it.

    Cases that earlier versions wrote have no checksums: that is said, and they count as sound if their files are there.
    """
    checked = RecentlyChecked(folder, {name: _stamp(folder / name) for name in sorted(identifiers)})
    if not (unsure := checked.unsure()):
        return set()
    if (size := sum(file.stat().st_size for name in unsure for file in _files(folder / name))) > _LARGE:
        log.info("Comparing %s, %s, with the checksums in %s.", count(len(unsure), "case"), amount(size), folder)
    with ThreadPoolExecutor(max(1, workers)) as threads:
        faults = dict(zip(unsure, threads.map(lambda name: case_faults(folder / name), unsure), strict=True))
    damaged = {name for name, found in faults.items() if found}
    if damaged:
        found = [fault for faults_of_one in faults.values() for fault in faults_of_one]
        log.warning(
            "Not as written, and preprocessed anew: %s of %s: %s. Is the folder a copy of a part, or a disk failing?",
            count(len(damaged), "case"), folder, listed(found, 5, "; "),
        )  # fmt: skip
    if bare := [name for name in unsure if name not in damaged and not _has_checksums(folder / name)]:
        log.info(
            "%s of %s were written by an earlier version, without checksums: damage to them would not be noticed. "
            "Delete that folder to have its cases preprocessed anew.", count(len(bare), "case"), folder,
        )  # fmt: skip
    checked.keep(name for name in unsure if name not in damaged)
    return damaged


def case_faults(case: Path) -> list[str]:
    """What in a case's folder is not as it was written, in words; without checksums, what is gone."""
    meta = read_meta(case)
    checksums = meta.pop("checksums", None)
    if not isinstance(checksums, dict):
        return [f"{case / name} is gone" for name in FILES if not (case / name).is_file()]
    faults = [fault_of(case / name, str(checksums.get(name))) for name in FILES if name != META]
    own = json_checksum(meta)
    if own != checksums.get(META):
        faults.append(f"{case / META} has the checksum {own}, it was written with {checksums.get(META)}")
    return [fault for fault in faults if fault]


def _has_checksums(case: Path) -> bool:
    return isinstance(read_meta(case).get("checksums"), dict)


def _files(case: Path) -> list[Path]:
    return [path for name in FILES if (path := case / name).is_file()]


def _stamp(case: Path) -> list[int]:
    return [number for path in _files(case) for number in file_stamp(path)]
