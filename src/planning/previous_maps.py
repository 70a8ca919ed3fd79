"""What the previous stage of a cascade has segmented in each training case, on the grid of the next stage's store.

A folder of compressed label maps, one file a case, named after all that they were made from: a file that is there is
whole, and of nothing else. Maps of other networks or other cases lie in another folder. A file beside each map has its
checksum, which tells whether it was damaged since; earlier versions wrote none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np

from umamba.files import atomic_file, write_text
from umamba.names import name_fault
from umamba.planning.arrays import compress, open_array
from umamba.planning.checksums import RecentlyChecked, checksum, fault_of
from umamba.raw.file_identity import file_stamp
from umamba.words import listed

log = logging.getLogger(__name__)

_ENDING = ".b2nd"
_CHECKSUM = ".crc32"  # follows the name of the map


@dataclass(frozen=True)
class PreviousMaps:
    """The maps of one folder.

    Attributes:
        folder: Where they lie.
        labels: Values of the maps above 0; each becomes an input channel of the next stage's network.
    """

    folder: Path
    labels: tuple[int, ...]

    def missing(self, identifiers: Iterable[str], workers: int = 1) -> list[str]:
        """The cases that have no map yet, or one that is damaged, which is said.

        Maps are read for it, except those of `RecentlyChecked`.
        """
        names = list(identifiers)
        there = [name for name in names if self._path(name).is_file()]
        checked = RecentlyChecked(self.folder, {name: _stamp(self._path(name)) for name in there})
        unsure = checked.unsure()
        with ThreadPoolExecutor(max(1, workers)) as threads:
            found = dict(zip(unsure, threads.map(lambda name: _fault_of(self._path(name)), unsure), strict=True))
        if faults := [fault for fault in found.values() if fault]:
            log.warning("Maps of the previous stage are not as written and made anew: %s.", listed(faults, 5, "; "))
        if sound := [name for name, fault in found.items() if not fault]:
            checked.keep(sound)
        return [name for name in names if name not in there or found.get(name)]

    def case(self, identifier: str) -> blosc2.NDArray:
        """(Z, Y, X) label map of a case, read where it is sliced (else FileNotFoundError)."""
        path = self._path(identifier)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no segmentation of the previous stage of case {identifier}, {path}. Start the training "
                "again: it makes what is missing."
            )
        return open_array(path)

    def write(self, identifier: str, label_map: np.ndarray, patch_size: Sequence[int]) -> None:
        """Keep the map of a case.

        Raises:
            OSError: The disk is full or cannot be written to; nothing half-written is left.
        """
        path, content = self._path(identifier), compress(label_map, patch_size)
        # Before the map: a kill between the two leaves none, or an older one that is then made again
        write_text(checksum(content) + "\n", _checksum_file(path))
        with atomic_file(path) as beside:
            beside.write_bytes(content)

    def _path(self, identifier: str) -> Path:
        if fault := name_fault(identifier):
            raise ValueError(f"A case cannot be called {identifier!r}: {fault}.")
        return self.folder / f"{identifier}{_ENDING}"


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + _CHECKSUM)


def _stamp(path: Path) -> list[int]:
    kept = _checksum_file(path)
    return file_stamp(path) + (file_stamp(kept) if kept.is_file() else [])


def _fault_of(path: Path) -> str | None:
    kept = _checksum_file(path)
    return fault_of(path, kept.read_text(encoding="utf-8", errors="replace").strip()) if kept.is_file() else None


def one_hot(label_map: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """(*S) integers -> (K, *S) float32: 1 where the map has the label, in the order of the labels, 0 elsewhere."""
    return np.stack([label_map == label for label in labels]).astype(np.float32)
