"""Many small arrays of draws as two tensors, and all tensors of a batch as one: each costs a copy, and work to send."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 16  # bytes: where an array begins, as the kernels take it


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
        flat = array.ravel()
        padding = -array.size % (ALIGNMENT // array.itemsize)
        self._parts[kind].append(np.concatenate([flat, np.zeros(padding, array.dtype)]) if padding else flat)
        self._sizes[kind] += array.size + padding
        return slot


class Pointer(NamedTuple):
    """As much of an array on a GPU as its kernels need."""

    dtype: torch.dtype
    address: int

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self.address


class Unpacker:
    """Gives the arrays back, as views of the tensors on the device.

    Args:
        tensors: What `Packer.tensors` gave, on any device.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._floats: Tensor | None = None
        self._addresses = {kind: (t.dtype, t.data_ptr(), t.itemsize) for kind, t in tensors.items() if t.is_cuda}

    def __call__(self, slot: Slot) -> Tensor:
        """int64 indices, or numbers in float32, in which images are computed."""
        if slot.kind != "numbers":
            return self.exactly(slot)
        if self._floats is None:
            self._floats = self._tensors["numbers"].float()
        return _view(self._floats, slot)

    def exactly(self, slot: Slot) -> Tensor:
        """int64 indices, or numbers in float64, in which coordinates are."""
        return _view(self._tensors[slot.kind], slot)

    def pointer(self, slot: Slot) -> Any:
        """For a kernel: int64 indices, or numbers in float64; the interpreter takes tensors."""
        if slot.kind not in self._addresses:
            return self.exactly(slot)
        dtype, address, itemsize = self._addresses[slot.kind]
        return Pointer(dtype, address + itemsize * slot.start)


def _view(tensor: Tensor, slot: Slot) -> Tensor:
    return tensor[slot.start : slot.start + math.prod(slot.shape)].view(slot.shape)


class Parcel:
    """Tensors that lie one after the other in the memory of a single one, which is sent, pinned and copied at once.

    Args:
        shapes: By name, shape and type of each.

    Attributes:
        size: Bytes of all.
    """

    def __init__(self, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        self.shapes = dict(shapes)
        self._starts, size = {}, 0
        for name, (shape, dtype) in self.shapes.items():
            self._starts[name] = size
            size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.size = size

    def tensors(self, memory: Tensor) -> dict[str, Tensor]:
        """Views, by name, of the memory of all, uint8 (size,) on any device."""
        found, storage, device = {}, memory.untyped_storage(), memory.device
        first = memory.storage_offset()
        for name, (shape, dtype) in self.shapes.items():
            view = torch.empty(0, dtype=dtype, device=device)
            found[name] = view.set_(storage, (first + self._starts[name]) // dtype.itemsize, shape)  # type: ignore[call-overload]
        return found


def new_memory(size: int) -> Tensor:
    """uint8 (size,), which a worker shares with the main process."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size, device="cpu")  # as torch's own collation does
    return torch.empty(0, dtype=torch.uint8).set_(storage)
