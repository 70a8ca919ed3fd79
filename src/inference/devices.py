"""Where to predict: the device of a name, and what memory it has left."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda or cuda:<number>.") from error
    count = torch.cuda.device_count()
    if device.type == "meta" or (device.type == "cuda" and (device.index or 0) >= count):
        raise ValueError(f"device is {str(name)!r}; this machine has the CPU and {count} GPU(s) that torch can use.")
    return device


def place_for(needed: int, device: torch.device) -> torch.device:
    """The device if so many bytes fit into half of its free memory, for the network needs some too; else the CPU."""
    if device.type != "cuda" or needed < free_device_memory(device) / 2:
        return device
    log.info("Summing %.1f GiB of logits in main memory: they do not fit on %s.", needed / 2**30, device)
    return torch.device("cpu")


def free_device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that this process may still take, those that torch keeps for later use included."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
