"""Kernel launches that cost the host a dictionary lookup.

Triton describes every argument of a launch (type, alignment, whether it is 1) to find the kernel compiled for it. With
forty arguments that takes longer than a short sequence takes on the device, so the kernel found is remembered here
under the same facts, and launched directly the next time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.runtime import driver

# How a compiled kernel is called directly is no public interface of Triton; other versions take its own, slower way.
DIRECT = triton.__version__.startswith(("3.6.", "3.7.", "3.8."))
MOST_KEPT = 4096  # launches remembered; a process sees a handful for each shape

_known: dict[tuple, tuple[Callable, int, tuple]] = {}


def cdiv(a: int, b: int) -> int:
    """a / b rounded up; Triton's function of this name takes microseconds."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


def launch(
    kernel: triton.JITFunction,
    grid: tuple[int, ...],
    tensors: tuple[Tensor | None, ...],
    numbers: tuple[int, ...],
    constants: tuple,
    **options: int,
) -> None:
    """`kernel[grid](*tensors, *numbers, *constants, **options)` on the device of the first tensor.

    Args:
        kernel: a Triton or Gluon kernel whose parameters stand in this order: tensors, numbers, constants.
        grid: one or two numbers of programs.
        tensors: on one CUDA device, or None; the first is a tensor.
        numbers: run-time integers.
        constants: values of the kernel's constexpr parameters.
        options: num_warps and the like, always the same for a kernel and its constants.
    """
    device = tensors[0].device.index
    if device != driver.active.get_current_device():
        with torch.cuda.device(device):
            return launch(kernel, grid, tensors, numbers, constants, **options)
    types = tuple([None if t is None else (t.dtype, t.data_ptr() % 16) for t in tensors])
    key = (id(kernel), device, types, numbers, constants)
    known = _known.get(key)
    hook = triton.knobs.runtime.launch_enter_hook  # a profiler's, which wants to be told more than is known here
    profiled = bool(getattr(hook, "calls", hook))
    if known is None or profiled:
        compiled = kernel[grid](*tensors, *numbers, *constants, **options)
        if DIRECT:
            if len(_known) >= MOST_KEPT:
                _known.clear()
            _known[key] = (compiled.run, compiled.function, compiled.packed_metadata)
        return None
    run, function, metadata = known
    across = grid[1] if len(grid) > 1 else 1
    stream = driver.active.get_current_stream(device)
    run(grid[0], across, 1, stream, function, metadata, None, None, None, *tensors, *numbers, *constants)
    return None
