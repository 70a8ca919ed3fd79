"""The devices at hand, and what power they draw."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from umamba.machine import usable_cpus

CPU = "cpu"
_EVERY_MS = 2000


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


class PowerMeter:
    """The present power of each GPU, as nvidia-smi reports it every two seconds.

    Attributes:
        reason: Why there is none; None while there is.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._watts: dict[str, float] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> PowerMeter:
        if shutil.which("nvidia-smi") is None:
            self.reason = "there is no nvidia-smi"
            return self
        query = ["nvidia-smi", "--query-gpu=index,uuid,power.draw", "--format=csv,noheader,nounits"]
        self._process = subprocess.Popen(
            [*query, f"--loop-ms={_EVERY_MS}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._read, name="power", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def watts(self, device: Device) -> float | None:
        """Of a GPU; None where it is not known."""
        return self._watts.get(device.name)

    def why_not(self, device: Device) -> str | None:
        """Why the power of a device is not known; None if it is."""
        if device.name == CPU:
            return "no GPU"
        return None if self.watts(device) is not None else self.reason or "nvidia-smi reports no power of it"

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None  # _read is started after both are there
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # "[N/A]", or a message
                index, uuid, watts = (part.strip() for part in line.split(","))
                self._watts[index] = self._watts[uuid] = float(watts)
        self._watts, self.reason = {}, "nvidia-smi ended"
