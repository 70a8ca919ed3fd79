"""Kernel launches that cost the host a dictionary lookup.

Triton describes every argument of a launch (type, alignment, whether it is 1) to find the kernel compiled for it. With
forty arguments that takes longer than a short sequence takes on the device, so the kernel found is remembered here and
launched directly the next time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.runtime import driver

# How a compiled kernel is called directly is no public interface of Triton; other versions take its own, slower way.
DIRECT = triton.__version__.startswith(("3.6.", "3.7.", "3.8."))
ALIGNMENT = 16  # bytes; Triton compiles another kernel for tensors that begin elsewhere


def cdiv(a: int, b: int) -> int:
    """a / b rounded up; Triton's function of this name takes microseconds."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


class Launch:
    """A kernel with all arguments fixed but its tensors.

    Args:
        kernel: a Triton or Gluon kernel whose parameters stand in this order: tensors, numbers, constants.
        grid: one or two numbers of programs.
        numbers: run-time integers.
        constants: values of the kernel's constexpr parameters.
        options: num_warps and the like.
    """

    def __init__(
        self,
        kernel: triton.JITFunction,
        grid: tuple[int, ...],
        numbers: tuple[int, ...],
        constants: tuple,
        **options: int,
    ) -> None:
        self.kernel = kernel
        self.grid = (*grid, 1, 1)[:3]
        self.fixed = (*numbers, *constants)
        self.options = options
        self._known: dict[tuple, tuple[Callable, int, tuple]] = {}  # by device and types of the tensors

    def __call__(self, *tensors: Tensor | None) -> None:
        """Run on the device of the first tensor; all are on it, or None."""
        device = tensors[0].device.index
        if device != driver.active.get_current_device():
            with torch.cuda.device(device):
                return self(*tensors)
        key: list = [device]
        pointers: list[int | None] = []  # Triton would ask the driver about every tensor that it is given
        bits = 0
        for t in tensors:
            pointer = None if t is None else t.data_ptr()
            bits |= pointer or 0
            pointers.append(pointer)
            key.append(t if t is None else t.dtype)
        known = self._known.get(tuple(key))
        hook = triton.knobs.runtime.launch_enter_hook  # a profiler's, which wants to be told more than is known here
        if known is None or bits % ALIGNMENT or getattr(hook, "calls", hook):
            compiled = self.kernel[self.grid](*tensors, *self.fixed, **self.options)
            if DIRECT and not bits % ALIGNMENT:
                self._known[tuple(key)] = (compiled.run, compiled.function, compiled.packed_metadata)
            return None
        run, function, metadata = known
        stream = driver.active.get_current_stream(device)
        run(*self.grid, stream, function, metadata, None, None, None, *pointers, *self.fixed)
        return None
