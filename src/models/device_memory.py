"""How torch keeps the memory of a CUDA device."""

from __future__ import annotations

import logging
import os
import sys

import torch

SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's own variables, which go before
TRIAL = 2**25  # bytes, more than torch takes from memory that it has already

log = logging.getLogger(__name__)


def use_expandable_segments(device: torch.device) -> bool:
    """Let torch join memory that was freed, so that a training holds little more than its tensors need.

    Otherwise a freed map serves for no larger one, nor do two that lay beside each other: a training step, as CUDA
    graphs above all, holds up to two thirds more. To be called before a network is moved to the device. Left alone
    where the user has chosen (PYTORCH_ALLOC_CONF), and where the driver or torch cannot.

    Returns:
        whether it is done.
    """
    if device.type != "cuda" or sys.platform != "linux" or any(name in os.environ for name in SETTINGS):
        return False
    if torch.cuda.get_allocator_backend() != "native":
        return False
    try:
        _set("expandable_segments:True")
        torch.empty(TRIAL, dtype=torch.uint8, device=device)  # some virtual devices have no virtual memory to map
    except (RuntimeError, AttributeError) as error:
        log.info("torch keeps CUDA memory in fixed segments, which takes more: %s.", str(error).splitlines()[0])
        _set("expandable_segments:False")
        return False
    return True


def _set(setting: str) -> None:
    torch._C._accelerator_setAllocatorSettings(setting)
