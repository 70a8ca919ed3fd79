"""Launches of the augmentation's kernels, each described once and then called with addresses alone."""

from __future__ import annotations

from typing import Any

from umamba.models.kernels.norm_act_launch import Direct
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Launch
from umamba.models.mamba.kernels.tiling import cdiv

BLOCK, WARPS = 1024, 4  # voxels and warps of most programs


_launches: dict[tuple, Any] = {}


def _launch(key: tuple, kernel: Any) -> Any:
    _, device, grid, types, numbers, constants, warps = key
    made = Launch if device >= 0 else Direct
    # Contracted products would move coordinates by a bit, and so points into other cells than NumPy's
    launch = made(kernel, device, grid, [*types], [*numbers], constants, num_warps=warps, enable_fp_fusion=False)
    if len(_launches) >= LAUNCHES_KEPT:
        del _launches[next(iter(_launches))]  # the one that was described first
    _launches[key] = launch
    return launch


def run(
    kernel: Any,
    device: int,
    grid: tuple[int, int],
    tensors: tuple,
    numbers: tuple,
    constants: tuple,
    warps: int = WARPS,
) -> None:
    """Run a kernel on the current stream.

    Args:
        kernel: Whose parameters are tensors, numbers and constants, in this order.
        device: Index; -1 for Triton's interpreter.
        grid: Programs along both axes.
        tensors: Tensors that begin at multiples of 16 bytes, `Unpacker.pointer`'s, or None.
        numbers: Whole or float32.
        constants: Of the parameters that are `tl.constexpr`.
        warps: A program.
    """
    types = tuple([None if t is None else t.dtype for t in tensors])  # this runs a dozen times a step: no generator
    key = (id(kernel), device, grid, types, numbers, constants, warps)  # Triton's hash of a kernel takes as long
    launch = _launches.get(key) or _launch(key, kernel)
    launch(*tensors) if device < 0 else launch(*[None if t is None else t.data_ptr() for t in tensors])


def over(voxels: int, rows: int, block: int = BLOCK) -> tuple[int, int]:
    """The grid of programs that take a block of a row's voxels each."""
    return cdiv(voxels, block), rows
