"""Many small arrays of draws as two tensors, so that a batch needs two copies to the device for them and not dozens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Slot(NamedTuple):
    """Where an array lies in its tensor."""

    kind: str
    start: int
    shape: tuple[int, ...]


class Packer:
    """Takes arrays of numbers (float64) and of indices (int64), in a worker."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {"numbers": [], "indices": []}
        self._sizes = {"numbers": 0, "indices": 0}

    def numbers(self, values: np.ndarray | Sequence) -> Slot:
        """Keep an array of float64."""
        return self._keep("numbers", np.asarray(values, dtype=np.float64))

    def indices(self, values: np.ndarray | Sequence) -> Slot:
        """Keep an array of int64."""
        return self._keep("indices", np.asarray(values, dtype=np.int64))

    def tensors(self) -> dict[str, Tensor]:
        """All that was kept, one tensor (N,) a kind."""
        types = {"numbers": np.float64, "indices": np.int64}
        empty = {kind: [np.empty(0, dtype)] for kind, dtype in types.items()}
        return {kind: torch.from_numpy(np.concatenate(parts or empty[kind])) for kind, parts in self._parts.items()}

    def _keep(self, kind: str, array: np.ndarray) -> Slot:
        slot = Slot(kind, self._sizes[kind], array.shape)
        self._parts[kind].append(array.ravel())
        self._sizes[kind] += array.size
        return slot


class Unpacker:
    """Gives the arrays back, as views of the tensors on the device.

    Args:
        tensors: What `Packer.tensors` gave, on any device.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = {**tensors, "floats": tensors["numbers"].float()}

    def __call__(self, slot: Slot) -> Tensor:
        """int64 indices, or numbers in float32, in which images are computed."""
        return self._view("floats" if slot.kind == "numbers" else slot.kind, slot)

    def exactly(self, slot: Slot) -> Tensor:
        """Numbers in float64, in which coordinates are."""
        return self._view(slot.kind, slot)

    def _view(self, kind: str, slot: Slot) -> Tensor:
        return self._tensors[kind][slot.start : slot.start + math.prod(slot.shape)].view(slot.shape)
