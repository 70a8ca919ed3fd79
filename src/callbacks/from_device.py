"""A number that the device is still to compute, and that the host hears of later without waiting now."""

from __future__ import annotations

import torch
from torch import Tensor


class FromDevice:
    """A copy of one number on its way to the host; whether that is not 0 waits until the device has got that far."""

    def __init__(self, number: Tensor) -> None:
        self._copy = torch.empty(number.shape, pin_memory=number.is_cuda).copy_(number, non_blocking=True)
        self._arrived = torch.cuda.Event() if number.is_cuda else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(number.device))

    def __bool__(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._copy)
