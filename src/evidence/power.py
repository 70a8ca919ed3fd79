"""What power the devices draw."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading

from umamba.run.devices import CPU, Device

_EVERY_MS = 2000


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
