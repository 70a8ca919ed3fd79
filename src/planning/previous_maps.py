"""What the previous stage of a cascade has segmented in each training case, on the grid of the next stage's store.

A folder of compressed label maps, one file a case, named after all that they were made from: a file that is there is
whole, and of nothing else. Maps of other networks or other cases lie in another folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np

from umamba.files import atomic_file
from umamba.names import name_fault
from umamba.planning.arrays import compress, open_array

_ENDING = ".b2nd"


@dataclass(frozen=True)
class PreviousMaps:
    """The maps of one folder.

    Attributes:
        folder: Where they lie.
        labels: Values of the maps above 0; each becomes an input channel of the next stage's network.
    """

    folder: Path
    labels: tuple[int, ...]

    def missing(self, identifiers: Iterable[str]) -> list[str]:
        """The cases that have no map yet."""
        return [name for name in identifiers if not self._path(name).is_file()]

    def case(self, identifier: str) -> blosc2.NDArray:
        """(Z, Y, X) label map of a case, read where it is sliced.

        Raises:
            FileNotFoundError: There is none.
        """
        path = self._path(identifier)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no segmentation of the previous stage of case {identifier}, {path}. Start the training "
                "again: it makes what is missing."
            )
        return open_array(path)

    def write(self, identifier: str, label_map: np.ndarray, patch_size: Sequence[int]) -> None:
        """Keep the map of a case.

        Args:
            identifier: Name of the case.
            label_map: (Z, Y, X) integers.
            patch_size: What will be read at once.

        Raises:
            OSError: The disk is full or cannot be written to; nothing half-written is left.
        """
        with atomic_file(self._path(identifier)) as beside:
            beside.write_bytes(compress(label_map, patch_size))

    def _path(self, identifier: str) -> Path:
        if fault := name_fault(identifier):
            raise ValueError(f"A case cannot be called {identifier!r}: {fault}.")
        return self.folder / f"{identifier}{_ENDING}"


def one_hot(label_map: np.ndarray, labels: Sequence[int], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """(*S) integers -> (K, *S): 1 where the map has the label, in the order of the labels, 0 elsewhere."""
    return np.stack([label_map == label for label in labels]).astype(dtype)
