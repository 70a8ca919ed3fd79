"""Where to predict: the device of a name, and what memory it has left."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the first GPU, or the CPU where there is none (else ValueError)."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda or cuda:<number>.") from error
    if not _is_there(device):
        count = torch.cuda.device_count()
        raise ValueError(f"device is {str(name)!r}; this machine has the CPU and {count} GPU(s) that torch can use.")
    return device


def _is_there(device: torch.device) -> bool:
    """Whether torch can compute on a device; a GPU is counted and not used, for that would take some of its memory."""
    if device.type in ("cpu", "cuda"):
        return device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()
    if device.type == "meta":  # has shapes and no numbers
        return False
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch knows its name, and was built without it
        return False
    return True


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
