"""The devices at hand, and the places on them that trainings share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from umamba.machine import usable_cpus

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """A GPU by the name that CUDA_VISIBLE_DEVICES takes, or the CPU."""

    name: str

    @property
    def environment(self) -> dict[str, str]:
        """With which a training sees this device alone."""
        # By bus as nvidia-smi counts, whose power is read.
        return {"CUDA_VISIBLE_DEVICES": "" if self.name == CPU else self.name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def find_devices(wanted: str | int | Sequence[str | int] = "auto") -> list[Device]:
    """The devices to train on.

    Args:
        wanted: "auto" (every GPU that this process may see, or the CPU), "cpu", or GPUs by number or UUID.

    Raises:
        ValueError: There are not as many GPUs, or one is named twice.
    """
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    there = visible or [str(index) for index in range(torch.cuda.device_count())]
    if wanted == "auto":
        return [Device(name) for name in there if torch.cuda.device_count()] or [Device(CPU)]
    if wanted == CPU:
        return [Device(CPU)]
    names = [str(name) for name in ([wanted] if isinstance(wanted, (str, int)) else wanted)]
    absent = [name for name in names if name not in there]
    if absent or len(set(names)) < len(names) or not names:
        raise ValueError(f"gpus={wanted}: expected auto, cpu, or different ones of {', '.join(there) or 'no GPU'}.")
    return [Device(name) for name in names]


def workers_per_run(runs: int) -> int:
    """Worker processes of each of so many trainings, which themselves take a core each."""
    return min(16, max(1, usable_cpus() // runs - 1))


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one training at a time.

    Attributes:
        name: For people.
        environment: What a training there has in its environment.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


def slots_of(devices: Sequence[Device], per_device: int) -> list[Slot]:
    """So many places on each device: the first of all devices, then the second of all."""
    names = {device: device.name if device.name == CPU else f"GPU {device.name}" for device in devices}
    return [Slot(name=names[d], environment=d.environment) for _ in range(per_device) for d in devices]
