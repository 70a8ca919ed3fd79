"""Compiles what a computation would launch for a named GPU, without one.

Its tensors are meta tensors, which have shapes and no memory, and Triton's driver here knows only its target.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from umamba.models.mamba.kernels.launch import Launch

# Shared memory that a program may have, in KiB, by compute capability (CUDA programming guide): A100, RTX 30, RTX 40,
# H100, B200, RTX 50
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
REGISTERS = 65536  # of a multiprocessor, on all of these


class Driver:
    """As much of a driver as compiling takes."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return -self.target.arch  # no GPU's number: Triton keeps compiled kernels by it

    def get_current_stream(self, device: int) -> int:
        return 0


class Built(NamedTuple):
    """A compiled kernel: module and name, registers and bytes of local memory (spilled registers) of a thread, bytes of
    shared memory and threads of a program.
    """

    name: str
    registers: int
    spilled: int
    shared: int
    threads: int


def built_for(capability: int, computation: Callable[[], None]) -> list[Built]:
    """All kernels that `computation` launches on meta tensors, compiled for a GPU of this compute capability."""
    launches: list[tuple[Launch, tuple]] = []

    def note(launch: Launch, *addresses: int | None) -> None:
        launches.append((launch, addresses))

    with mock.patch.object(Launch, "__call__", note):
        computation()
    with mock.patch.object(driver, "_active", Driver(capability)):
        built = [(_name(launch), launch.build(*given)) for launch, given in launches]
    return [_described(*one) for one in {kernel.hash: (name, kernel) for name, kernel in built}.values()]


def _name(launch: Launch) -> str:
    function = launch.kernel.fn
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def _described(name: str, compiled: Any) -> Built:
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        listing = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    assert found is not None, listing
    registers, stack = map(int, found.groups())
    metadata = compiled.metadata
    return Built(name, registers, stack, metadata.shared, metadata.num_warps * 32)
