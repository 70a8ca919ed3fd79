"""The scan's Triton and Gluon kernels run by NumPy, program after program, where neither a GPU nor Triton is needed.

Gluon has no interpreter, so here is one as large as these kernels need: vectors are arrays, layouts mean nothing, and
asynchronous copies happen at once or as late as they may, when they are waited for. That shows wrong indices, masks and
orders; not what a compiler or a race between the lanes of a warp does.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

KERNELS = "umamba.models.mamba.kernels"
ELEMENTS = 1 << 28  # that a pointer may reach
NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16}


class Vector(np.ndarray):
    """An array with what Triton calls the methods and attributes of a tensor."""

    def to(self, dtype: Any) -> Vector:
        return vector(self.astype(dtype))

    @property
    def type(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(layout=None)

    # Triton's values do not change: `a += b` makes another one
    def __iadd__(self, other: Any) -> Vector:  # type: ignore[misc]
        return self + other

    def __isub__(self, other: Any) -> Vector:  # type: ignore[misc, override]
        return self - other

    def __imul__(self, other: Any) -> Vector:  # type: ignore[misc]
        return self * other


def vector(value: Any) -> Vector:
    return np.asarray(value).view(Vector)


class Pointer:
    """Addresses of elements of one type."""

    def __init__(self, memory: np.ndarray, offset: Any) -> None:
        self.memory, self.offset = memory, offset
        self.dtype = types.SimpleNamespace(element_ty=memory.dtype.type)

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.offset + offset)


class Shared:
    """Shared memory, or a part of it."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory, self.shape, self.dtype = memory, memory.shape, memory.dtype.type

    def index(self, i: Any) -> Shared:
        return Shared(self.memory[int(i)])

    def slice(self, start: Any, length: int) -> Shared:
        return Shared(self.memory[int(start) : int(start) + length])

    def load(self, layout: Any) -> Vector:
        return vector(self.memory.copy())

    def store(self, value: Any) -> None:
        self.memory[...] = value


def _on_vectors(function: Callable) -> Callable[..., Vector]:
    return lambda *given: vector(function(*given))


class Machine(types.ModuleType):
    """`triton.language` and Gluon's, in one; `late` says when asynchronous copies happen."""

    int32, int64, float32 = np.int32, np.int64, np.float32
    program: tuple[int, ...] = (0, 0)
    programs: tuple[int, ...] = (1, 1)

    def __init__(self, late: bool) -> None:
        super().__init__("language")
        self.late = late
        self.open: list = []  # copies of the group that is not committed yet
        self.groups: list[list] = []
        for name in ("where", "maximum", "minimum", "abs", "exp2", "reshape"):
            setattr(self, name, _on_vectors(getattr(np, name)))

    # Programs and compile-time values
    def program_id(self, axis: int) -> Vector:
        return vector(np.int64(self.program[axis]))

    def num_programs(self, axis: int) -> int:
        return self.programs[axis]

    def constexpr(self, value: Any) -> Any:
        return value

    def static_range(self, *limits: int) -> range:
        return range(*limits)

    def __getattr__(self, name: str) -> Any:
        if name.endswith("Layout"):
            return lambda *arguments, **keywords: None
        raise AttributeError(name)

    # Arithmetic
    def cdiv(self, a: Any, b: Any) -> Any:
        return -(-a // b)

    def arange(self, begin: int, end: int, layout: Any = None) -> Vector:
        return vector(np.arange(begin, end, dtype=np.int32))

    def full(self, shape: Any, value: Any, dtype: Any, layout: Any = None) -> Vector:
        return vector(np.full(shape, value, dtype))

    def zeros(self, shape: Any, dtype: Any) -> Vector:
        return vector(np.zeros(shape, dtype))

    def cast(self, value: Any, dtype: Any) -> Vector:
        return vector(value).to(dtype)

    def sum(self, value: Any, axis: int) -> Vector:
        return vector(value.sum(axis, dtype=value.dtype))

    def convert_layout(self, value: Vector, layout: Any) -> Vector:
        return value

    def associative_scan(self, values: tuple, axis: int, combine: Callable) -> tuple:
        rows = [tuple(v[0] for v in values)]
        for i in range(1, len(values[0])):
            rows.append(combine(*rows[-1], *(v[i] for v in values)))
        return tuple(vector(np.stack(column)) for column in zip(*rows, strict=True))

    # Memory
    def load(self, pointer: Pointer, mask: Any = True, other: float = 0.0) -> Vector:
        offset, mask = np.broadcast_arrays(pointer.offset, mask)
        found = pointer.memory[np.where(mask, offset, 0)]
        return vector(np.where(mask, found, pointer.memory.dtype.type(other)))

    def store(self, pointer: Pointer, value: Any, mask: Any = True) -> None:
        offset, mask, value = np.broadcast_arrays(pointer.offset, mask, value)
        pointer.memory[offset[mask]] = value[mask]

    def allocate_shared_memory(self, dtype: Any, shape: Any, layout: Any) -> Shared:
        return Shared(np.full(shape, np.nan, dtype))

    def async_load(self, shared: Shared, pointer: Pointer, mask: Any = True) -> None:
        if not self.late:
            shared.store(self.load(pointer, mask))
        self.open.append((shared, pointer, mask))

    def commit_group(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def wait_group(self, outstanding: int) -> None:
        while len(self.groups) > outstanding:
            for shared, pointer, mask in self.groups.pop(0) if self.late else [self.groups.pop(0)][:0]:
                shared.store(self.load(pointer, mask))


def _jit(function: Callable | None = None, **options: Any) -> Callable:
    return function if function is not None else lambda function: function


@contextmanager
def emulated(late: bool) -> Iterator[None]:
    """Inside, the kernels' modules import anew, with launches on CPU tensors run here."""
    machine = Machine(late)
    gluon = types.SimpleNamespace(jit=_jit, constexpr_function=_jit, language=machine)
    ampere = types.SimpleNamespace(async_copy=machine)
    fakes = {
        "triton": types.SimpleNamespace(jit=_jit, __version__="emulated", language=machine, JITFunction=object),
        "triton.language": machine,
        "triton.runtime": types.SimpleNamespace(driver=None),
        "triton.experimental": types.SimpleNamespace(gluon=gluon),
        "triton.experimental.gluon": gluon,
        "triton.experimental.gluon.language.nvidia.ampere": ampere,
    }
    kept = {name: module for name, module in sys.modules.items() if not name.startswith((KERNELS + ".", "triton"))}
    with mock.patch.dict(sys.modules, kept | fakes, clear=True):
        launch = importlib.import_module(f"{KERNELS}.launch")
        with mock.patch.object(launch.Launch, "__call__", lambda self, *given: _run(machine, self, given)):
            yield


def _run(machine: Machine, launch: Any, addresses: tuple) -> None:
    pointers = [
        None if a is None or t is None else _pointer(a, t) for a, t in zip(addresses, launch.types, strict=True)
    ]
    machine.programs = launch.grid
    for place in itertools.product(*map(range, launch.grid)):
        machine.program = place
        with np.errstate(all="ignore"):
            launch.kernel(*pointers, *launch.fixed)
        assert not machine.open, "copies that nobody can wait for"
        machine.groups.clear()


def _pointer(address: int, dtype: torch.dtype) -> Pointer:
    size = ELEMENTS * dtype.itemsize
    buffer = (ctypes.c_byte * size).from_address(address)
    memory: np.ndarray = np.frombuffer(buffer, NUMPY[dtype])  # type: ignore[call-overload]  # a buffer all the same
    return Pointer(memory, 0)
