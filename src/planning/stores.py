"""The stores of a prepared folder, side by side: one for each set of raw files and way to preprocess them.

A store's folder is named after its content, ``<data_identifier>-<key>``, and never changes once it is whole: other
options, another plan or changed raw files make another store, and a run that reads the first goes on reading it. Cases
that two stores have in common are hard links to the same files. Nothing is deleted; what is no longer used is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from umamba.files import content_hash
from umamba.planning.store import link_case, read_meta, stored_identifiers

log = logging.getLogger(__name__)


def store_folder(prepared_dir: Path, data_identifier: str, keys: Mapping[str, str]) -> Path:
    """Where the store of these cases is or will be.

    Args:
        prepared_dir: Of the data set.
        data_identifier: Of the plan's configuration.
        keys: Case name -> key of its content.

    Returns:
        The folder named after the keys; or ``data_identifier`` itself, as folders were named before they had a key,
        if exactly these cases are in it.
    """
    former = prepared_dir / data_identifier
    if set(stored_identifiers(former)) == keys.keys() and not missing_cases(former, keys):
        return former
    return prepared_dir / f"{data_identifier}-{content_hash(sorted(keys.items()))[:8]}"


def missing_cases(folder: Path, keys: Mapping[str, str]) -> list[str]:
    """The cases that a store lacks or has with another content."""
    return [name for name, key in keys.items() if (read_meta(folder / name) or {}).get("key") != key]


def link_known_cases(folder: Path, keys: Mapping[str, str]) -> None:
    """Take from the other stores beside `folder` what they hold of its cases; they keep it too."""
    missing = missing_cases(folder, keys)
    found = 0
    for other in _others(folder):
        for name in [name for name in missing if (read_meta(other / name) or {}).get("key") == keys[name]]:
            if link_case(other, folder, name):
                missing.remove(name)
                found += 1
    if found:
        log.info("%d case(s) of %s are shared with the stores beside it.", found, folder)


def name_others(folder: Path) -> None:
    """Say which stores lie beside one, what they hold and that they may be deleted."""
    others = list(_others(folder))
    if others:
        sizes = ", ".join(f"{other} ({_size(other) / 1e9:.2f} GB)" for other in others)
        log.info(
            "This run reads %s. Other stores are kept for runs that use them: %s. To free their space delete the "
            "folders that no run needs.", folder, sizes,
        )  # fmt: skip


def _others(folder: Path) -> Iterator[Path]:
    for other in sorted(folder.parent.iterdir()):
        if other != folder and other.is_dir() and stored_identifiers(other):
            yield other


def _size(folder: Path) -> int:
    """Bytes that deleting a store would free: files that no other store shares."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
