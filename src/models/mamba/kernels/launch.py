"""Kernel launches that cost the host little more than the driver's part.

Triton describes every argument of a launch (type, alignment, whether it is 1) to find the kernel compiled for it. With
forty arguments that takes longer than a short sequence takes on the device. Here a pass describes its tensors once
(`describe`), finds its launches by that description, and gives them bare addresses.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import driver

# How a compiled kernel is called directly is no public interface of Triton; other versions take its own, slower way.
DIRECT = triton.__version__.startswith(("3.6.", "3.7.", "3.8."))
ALIGNMENT = 16  # bytes; Triton compiles another kernel for tensors that begin elsewhere
LAUNCHES_KEPT = 1024  # of descriptions; a process sees a handful

Address = int | None  # of the first element of a tensor, None for a tensor that is not there
Type = torch.dtype | None


class Description(tuple):
    """What a pass has to know of its tensors, hashable: device, which of them begin at no multiple of ALIGNMENT (a bit
    each), and (shape, strides, dtype) or None of each.
    """

    __slots__ = ()

    @property
    def device(self) -> int:
        return self[0]

    @property
    def aligned(self) -> bool:
        """Whether all begin at multiples of ALIGNMENT."""
        return not self[1]

    def in_whole_words(self, i: int) -> bool:
        """Whether Triton knows that every lane's share of a row is whole words of 4 bytes in the tensor with index i
        (batch, L, channels), if there is such a tensor.
        """
        tensor = self[2 + i]
        if tensor is None or tensor[2].itemsize >= 4:
            return True
        shape, strides, _ = tensor
        return not self[1] >> i & 1 and all(n % ALIGNMENT == 0 for n in (shape[-1], *strides[:2]))

    def shape(self, i: int) -> torch.Size:
        """Shape of the tensor with index i, which is there."""
        return self[2 + i][0]

    def has(self, i: int) -> bool:
        """Whether the tensor with index i is there."""
        return self[2 + i] is not None

    def strides(self, *order: int) -> list[int]:
        """Strides over batch and tokens of the tensors with these indices, zero where there is none."""
        found = [self[2 + i] for i in order]
        return [number for t in found for number in ((0, 0) if t is None else t[1][:2])]

    def types(self, *order: int) -> list[Type]:
        found = [self[2 + i] for i in order]
        return [None if t is None else t[2] for t in found]


def describe(first: Tensor, *others: Tensor | None) -> tuple[Description, list[Address]]:
    """Description and addresses of tensors on one device, the first of which is there."""
    tensors = (first, *others)
    addresses = [None if t is None else t.data_ptr() for t in tensors]
    seen = [None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors]
    elsewhere = sum(1 << i for i, address in enumerate(addresses) if address and address % ALIGNMENT)
    return Description((first.get_device(), elsewhere, *seen)), addresses


class _Pointer:
    """As much of a tensor as Triton looks at."""

    def __init__(self, dtype: torch.dtype, address: int) -> None:
        self.dtype = dtype
        self.address = address

    def data_ptr(self) -> int:
        return self.address


class Launch:
    """A kernel with all arguments fixed but the addresses of its tensors.

    Args:
        kernel: a Triton or Gluon kernel whose parameters stand in this order: tensors, numbers, constants.
        device: index of the CUDA device.
        grid: one or two numbers of programs.
        types: of the tensors.
        numbers: run-time integers.
        constants: values of the kernel's constexpr parameters.
        aligned: whether in every call those tensors begin at multiples of ALIGNMENT that do in the first: a description
            of all of them says so. If not, each call takes Triton's own, slower way.
        options: num_warps and the like.
    """

    def __init__(
        self,
        kernel: triton.JITFunction,
        device: int,
        grid: tuple[int, ...],
        types: list[Type],
        numbers: list[int],
        constants: tuple,
        aligned: bool = True,
        **options: int,
    ) -> None:
        self.kernel = kernel
        self.device = device
        self.grid = (*grid, 1, 1)[:3]
        self.types = types
        self.fixed = (*numbers, *constants)
        self.aligned = aligned
        # Fused multiply-adds are the default of Triton up to 3.9, which announces that it will change
        self.options = {"enable_fp_fusion": True, **options}
        self._compiled: tuple | None = None  # how to call it, the function, and what the call wants to know of it

    def __call__(self, *addresses: Address) -> None:
        """Run on the current stream of the device."""
        if self.device != torch.cuda.current_device():
            with torch.cuda.device(self.device):
                return self(*addresses)
        hook = triton.knobs.runtime.launch_enter_hook  # a profiler's, which wants to be told more than is known here
        if self._compiled is None or getattr(hook, "calls", hook):
            return self._slowly(addresses)
        run, function, metadata = self._compiled
        stream = driver.active.get_current_stream(self.device)
        run(*self.grid, stream, function, metadata, None, None, None, *addresses, *self.fixed)
        return None

    def _slowly(self, addresses: tuple[Address, ...]) -> None:
        """Triton's way, which compiles the kernel if need be."""
        compiled = self.kernel[self.grid](*self._arguments(addresses), **self.options)
        if DIRECT and self.aligned:
            self._compiled = (compiled.run, compiled.function, compiled.packed_metadata)

    def build(self, *addresses: Address) -> Any:
        """Compile the kernel for tensors that begin there, without running it; returns it as Triton does."""
        return self.kernel.warmup(*self._arguments(addresses), grid=self.grid, **self.options)

    def _arguments(self, addresses: tuple[Address, ...]) -> tuple:
        pairs = zip(self.types, addresses, strict=True)
        return *(None if t is None or a is None else _Pointer(t, a) for t, a in pairs), *self.fixed
