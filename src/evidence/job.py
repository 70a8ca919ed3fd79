"""A training of one wanted run: a process of train.py, what it takes of a device, and what it leaves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from omegaconf import OmegaConf

from umamba.evidence.entry import Entry
from umamba.evidence.power import PowerMeter
from umamba.evidence.record import make_record
from umamba.files import write_json
from umamba.run.devices import CPU, Device
from umamba.run.folder import last_checkpoint
from umamba.run.job_state import STOPPED_CODES, last_words
from umamba.run.jobs import child_environment
from umamba.run.sweep import quoted

_ENERGY_SHARE = 0.9  # of the time in which power must have been known


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where trainings run and find their data.

    Attributes:
        script: train.py.
        raw, prepared: Folders of raw data sets and of prepared ones; None for those of the configuration.
        workers: Processes that make batches, of each training.
        threads: Of each training's main process.
        code: Hash of the project's code.
        revision: Its git commit; None where there is no checkout.
        unchanged: Whether the code is still the same; asked before every start.
    """

    script: Path
    raw: Path | None = None
    prepared: Path | None = None
    workers: int
    threads: int
    code: str
    revision: str | None
    unchanged: Callable[[], bool] = lambda: True


@dataclass(kw_only=True)
class Job:
    """A training under way."""

    entry: Entry
    lock: FileLock  # of the entry, held; let go of in `finish`
    device: Device
    place: Place
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    state: dict[str, Any]
    started: float = field(default_factory=time.monotonic)
    told: bool = False  # to stop
    _gpu_seconds: float = 0.0
    _joules: float = 0.0
    _measured: float = 0.0  # s in which the power was known
    _beside: float = 0.0  # s, each times the runs on the device
    _counted: float = 0.0  # s

    @classmethod
    def start(cls, entry: Entry, lock: FileLock, device: Device, place: Place) -> Job:
        """Start or go on with a run whose lock is held.

        Where nothing is kept of one that was begun with other settings, or by another version of the code, it begins
        anew: train.py would go on with the configuration that it finds, which has these settings.
        """
        asked = list(entry.wanted.overrides)
        state = entry.state()
        if state and (state["overrides"], state["code"]) != (asked, place.code) and entry.is_untrained(state):
            shutil.rmtree(entry.run_dir, ignore_errors=True)
            state = {}
        state = state or {"overrides": asked, "attempts": []}
        for attempt in state["attempts"]:  # of a runner that was killed: what it left is known now
            if "step" not in attempt:
                attempt["step"], attempt["reached"] = entry.steps()
        state |= {"code": place.code, "revision": place.revision}
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        state["attempts"].append({"started": now, "from_step": entry.steps()[0] or 0, "device": device.name,
                                  "seconds": 0.0, "gpu_seconds": None, "packed": 1.0})  # fmt: skip
        entry.save_state(state)
        output = open(entry.folder / "output.log", "ab")  # noqa: SIM115  # as long as the process
        process = subprocess.Popen(
            command(entry, place), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=_environment(device, place),
        )  # fmt: skip
        return cls(entry=entry, lock=lock, device=device, place=place, process=process, output=output, state=state)

    def account(self, seconds: float, packed: int, meter: PowerMeter) -> None:
        """Count its share of the last seconds of its device.

        Args:
            seconds: Since the last call.
            packed: Runs on the device, this one included.
            meter: Knows the power.
        """
        self._counted += seconds
        self._beside += seconds * packed
        self._gpu_seconds += seconds / packed
        watts = meter.watts(self.device)
        if watts is not None:
            self._joules += watts * seconds / packed
            self._measured += seconds
        known = self._measured >= _ENERGY_SHARE * self._counted and self._measured > 0
        energy = self._joules * self._counted / self._measured / 3600 if known else None
        self.state["attempts"][-1] |= {
            "seconds": round(time.monotonic() - self.started, 1),
            "gpu_seconds": round(self._gpu_seconds, 1) if self.device.name != CPU else None,
            "packed": round(self._beside / self._counted, 2) if self._counted else 1.0,
            "energy_wh": None if energy is None else round(energy, 3),
            "no_energy": None if known else meter.why_not(self.device) or "its power was not known all the time",
        }

    def tell_to_stop(self) -> None:
        """Ask for a checkpoint and the end."""
        if not self.told and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.told = True

    def finish(self, *, keep_checkpoints: bool) -> str | None:
        """After the process has ended: write down how, and the record if the run is done.

        Returns:
            Why it failed; None if it is done or was stopped.
        """
        self.output.close()
        code = self.process.wait()
        attempt = self.state["attempts"][-1]
        attempt["exit_code"] = code
        attempt["step"], attempt["reached"] = self.entry.steps()
        reason = None
        if code == 0:
            try:
                made = make_record(self.entry.wanted, self.entry.run_dir, self.state["attempts"], self.place.code)
                write_json(made, self.entry.record)
            except (OSError, ValueError, KeyError) as error:
                attempt["exit_code"] = 1
                reason = f"It ended well, but cannot be recorded: {error}"
        elif code not in STOPPED_CODES:
            reason = last_words(self.entry.folder / "output.log") or f"ended with code {code} and said nothing"
        if reason is not None:
            attempt["reason"] = reason
        self.entry.save_state(self.state)
        if code == 0 and reason is None and not keep_checkpoints:
            for path in self.entry.run_dir.glob("checkpoints/*.ckpt"):
                path.unlink()
        self.lock.release()
        return reason


def command(entry: Entry, place: Place) -> list[str]:
    """train.py as a new run is called; one that has a checkpoint goes on by itself, wherever its data lie now."""
    moved = {"paths.raw": place.raw, "paths.prepared": place.prepared}
    given = [f"{key}={quoted(str(path.resolve()))}" for key, path in moved.items() if path is not None]
    overrides = [*entry.wanted.overrides, f"seed={entry.wanted.seed}", *given]
    if last_checkpoint(entry.run_dir).is_file():
        overrides = _data_of(entry.run_dir / "config.yaml", moved)
    own = [f"run_dir={quoted(str(entry.run_dir.resolve()))}", f"data.num_workers={place.workers}"]
    return [sys.executable, str(place.script), *overrides, *own]


def _data_of(config: Path, moved: dict[str, Path | None]) -> list[str]:
    """Where the data of a run that goes on lie now, for its own configuration says where they lay."""
    stored = OmegaConf.load(config)
    overrides = []
    for key, root in (("data.dataset_dir", "paths.raw"), ("data.prepared_dir", "paths.prepared")):
        then, before, now = OmegaConf.select(stored, key), OmegaConf.select(stored, root), moved[root]
        if now is not None and before is not None and Path(then).is_relative_to(before):
            overrides.append(f"{key}={quoted(str(now.resolve() / Path(then).relative_to(before)))}")
    return overrides


def _environment(device: Device, place: Place) -> dict[str, str]:
    kept = child_environment()
    threads = {key: str(place.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if key not in kept}
    return {"PYTHONUNBUFFERED": "1", **kept, **threads, **device.environment}
