"""Pending batches to the device and through its stages, beside the training step."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from umamba.datamodules.augmentation.device.chain import DeviceChain, PendingBatch

_MOST_AHEAD = 3  # batches: what the host may be ahead of the device, which else would have to hold all of them


class DeviceAugmenter:
    """Augments pending batches; on a GPU on a stream of its own, so that the step before may still be running.

    Args:
        chain: Whose pending batches these are.
    """

    def __init__(self, chain: DeviceChain) -> None:
        self.chain = chain
        self._stream: torch.cuda.Stream | None = None
        self._steps: deque[torch.cuda.Event] = deque()

    def __call__(self, pending: PendingBatch, device: torch.device) -> dict[str, Tensor]:
        """The batch on the device, as `DeviceChain.apply` gives it."""
        if device.type != "cuda":
            return self.chain.apply(pending.to(device))
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        main = torch.cuda.current_stream(device)
        self._wait_for_an_earlier_step(main)
        with torch.cuda.stream(self._stream):
            batch = self.chain.apply(pending.to(device))
        main.wait_stream(self._stream)
        for tensor in batch.values():
            tensor.record_stream(main)  # its memory is free again when the step is done
        return batch

    def _wait_for_an_earlier_step(self, main: torch.cuda.Stream) -> None:
        event = torch.cuda.Event(blocking=True)
        event.record(main)
        self._steps.append(event)
        if len(self._steps) > _MOST_AHEAD:
            self._steps.popleft().synchronize()
