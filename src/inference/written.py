"""Whether files of a prediction are still what it wrote; others may have corrected, exchanged or damaged them since.

The record of a prediction holds the identity of each file that it has written. Earlier versions kept none: their files
are taken as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umamba.raw.file_identity import are_same, identity_of

log = logging.getLogger(__name__)

KEY = "written"  # of a record: case -> `identities_in` of its files


@dataclass(frozen=True)
class Found:
    """What is known of the files of some cases.

    Attributes:
        changed: Cases whose files are not what was written.
        unsaid: Cases of which no record says what was written: their prediction was cut off before.
        untold: Cases of records of an earlier version.
    """

    changed: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)


def identities_in(folder: Path, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Path of each file as seen from a folder -> its identity, see `identity_of`."""
    return {path.relative_to(folder).as_posix(): identity_of(path) for path in files}


def compare_written(folder: Path, files: Mapping[str, Sequence[Path]], records: Sequence[Mapping[str, Any]]) -> Found:
    """Compare files with what records say of them; they are read only where their stamps differ.

    Args:
        folder: Of the records.
        files: Case -> its files, the label map first.
        records: Of the predictions in the folder, each with "images".
    """
    found = Found()
    told = [record[KEY] for record in records if isinstance(record.get(KEY), dict)]
    for name, paths in sorted(files.items()):
        if any(_agree(folder, paths, one[name]) for one in told if name in one):
            continue
        listing = [record for record in records if name in record["images"]]
        if any(not isinstance(record.get(KEY), dict) for record in listing):
            found.untold.append(name)
        elif not listing or any(name not in record[KEY] for record in listing):
            found.unsaid.append(name)
        else:
            found.changed.append(name)
    return found


def kept_of(record: Mapping[str, Any], folder: Path, files: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, Any]]:
    """What a record says of some cases, for the record of a prediction that leaves them as they are.

    Args:
        record: With "images"; of one of an earlier version the files are taken for what was written.
        folder: Of the record.
        files: Case -> its files.

    Returns:
        "images", "seconds", "trained_on" and "written" of these cases.
    """
    told = record.get(KEY)
    if not isinstance(told, dict):
        told = {
            name: identities_in(folder, [path for path in paths if path.is_file()]) for name, paths in files.items()
        }
    parts = {key: record.get(key) for key in ("images", "seconds", "trained_on")} | {KEY: told}
    return {key: {case: of for case, of in (part or {}).items() if case in files} for key, part in parts.items()}


def _agree(folder: Path, paths: Sequence[Path], identities: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the label map, and whatever else is recorded, is the same."""
    known = [identities.get(path.relative_to(folder).as_posix()) for path in paths]
    return known[0] is not None and all(
        identity is None or are_same([path], [identity]) for path, identity in zip(paths, known, strict=True)
    )


def say_untold(found: Found, folder: Path) -> None:
    """Say which files are taken as they are, if there are any."""
    if found.untold:
        log.warning(
            "The record of an earlier version in %s does not say what was written: %d label map(s) are taken as they "
            "are, and nobody sees whether they were edited or exchanged since.", folder, len(found.untold),
        )  # fmt: skip
