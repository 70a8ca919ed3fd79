"""A training of one wanted run: a job of train.py, what it takes of a device, and what it leaves."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from umamba.evidence.entry import Entry
from umamba.evidence.limits import Limits
from umamba.evidence.power import PowerMeter
from umamba.evidence.record import make_record
from umamba.files import write_json
from umamba.run.devices import CPU, Device, Slot
from umamba.run.folder import last_checkpoint
from umamba.run.job_state import STOPPED_CODES, steps_of
from umamba.run.kept_job import KeptJob
from umamba.run.sweep import quoted
from umamba.words import in_words

log = logging.getLogger(__name__)

_SAVE_SECONDS = 15.0  # between two writes of what a run has taken so far
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
class Training(KeptJob):
    """A training of a wanted run.

    Attributes:
        entry: What it is, and its files.
        place: Where it runs.
        meter: Knows the power of its device.
        limits: Of the sitting.
        asked: Whether it was to be started.
    """

    command: Sequence[str] = ()
    entry: Entry
    place: Place
    meter: PowerMeter
    limits: Limits
    asked: bool = False

    def may_begin(self) -> bool:
        """Whether it ends in time, by estimate."""
        return self.limits.allow(self.entry)

    def begin(self, slot: Slot) -> bool:
        """Take it, unless another process has it or has done it; it goes on, or begins anew."""
        self.asked, self.device = True, Device(slot.name)
        if not super().begin(slot):
            return False
        self.command = command(self.entry, self.place)
        self._saved = self._gpu_seconds = self._joules = self._measured = self._beside = self._counted = 0.0
        return True

    def state_before(self) -> dict[str, Any]:
        """To which an attempt that begins is added.

        Where nothing is kept of one that was begun with other settings, or by another version of the code, it begins
        anew: train.py would go on with the configuration that it finds, which has these settings.
        """
        entry, asked = self.entry, list(self.entry.wanted.overrides)
        state = entry.state()
        if state and (state["overrides"], state["code"]) != (asked, self.place.code) and entry.is_untrained(state):
            shutil.rmtree(entry.run_dir, ignore_errors=True)
            state = {}
        state = state or {"overrides": asked, "attempts": []}
        for attempt in state["attempts"]:  # of a runner that was killed: what it left is known now
            if "step" not in attempt:
                attempt["step"], attempt["reached"] = steps_of(entry.run_dir)
        return state | {"code": self.place.code, "revision": self.place.revision}

    def facts(self, slot: Slot) -> dict[str, Any]:
        """See the base."""
        from_step = steps_of(self.entry.run_dir)[0] or 0
        return {"from_step": from_step, "device": slot.name, "seconds": 0.0, "gpu_seconds": None, "packed": 1.0}

    def passed(self, seconds: float, beside: int) -> None:
        """Count its share of the last seconds of its device."""
        self._counted += seconds
        self._beside += seconds * beside
        self._gpu_seconds += seconds / beside
        watts = self.meter.watts(self.device)
        if watts is not None:
            self._joules += watts * seconds / beside
            self._measured += seconds
        known = self._measured >= _ENERGY_SHARE * self._counted and self._measured > 0
        energy = self._joules * self._counted / self._measured / 3600 if known else None
        self.attempt.update({
            "seconds": round(self._counted, 1),
            "gpu_seconds": round(self._gpu_seconds, 1) if self.device.name != CPU else None,
            "packed": round(self._beside / self._counted, 2) if self._counted else 1.0,
            "energy_wh": None if energy is None else round(energy, 3),
            "no_energy": None if known else self.meter.why_not(self.device) or "its power was not known all the time",
        })  # fmt: skip
        if self._counted - self._saved > _SAVE_SECONDS:
            self._saved = self._counted
            self.entry.save(self.state)

    def end(self, code: int, reason: str | None, seconds: float) -> str | None:
        """Write down how it ended, and the record if it is done; to be stopped is no failure."""
        attempt = self.attempt
        attempt["exit_code"] = code
        attempt["step"], attempt["reached"] = steps_of(self.entry.run_dir)
        if code in STOPPED_CODES:
            reason = None
            where = "before its first checkpoint" if attempt["step"] is None else f"at step {attempt['step']}"
            log.info("%s was stopped %s.", self.name, where)
        elif code == 0:
            try:
                made = make_record(self.entry.wanted, self.entry.run_dir, self.state["attempts"], self.place.code)
                write_json(made, self.entry.record)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # files of it are damaged
                code, reason = 1, f"It ended well, but cannot be recorded: {in_words(error)}"
            else:
                self._forget()
        return super().end(code, reason, self._counted)

    def _forget(self) -> None:
        """Of one that is recorded: what it took counts in the estimates, and its checkpoints are not needed."""
        self.limits.learn()
        if not self.limits.rules.keep_checkpoints:
            for path in self.entry.run_dir.glob("checkpoints/*.ckpt"):
                path.unlink()


def command(entry: Entry, place: Place) -> list[str]:
    """train.py as a new run is called; one that has a checkpoint goes on by itself, wherever its data lie now."""
    overrides = [*entry.wanted.overrides, f"seed={entry.wanted.seed}", *data_overrides(place)]
    if last_checkpoint(entry.run_dir).is_file():
        overrides = _data_of(entry.run_dir / "config.yaml", _folders(place))
    own = [f"run_dir={quoted(str(entry.run_dir.resolve()))}", f"data.num_workers={place.workers}"]
    return [sys.executable, str(place.script), *overrides, *own]


def data_overrides(place: Place) -> list[str]:
    """Where the data of a new run lie."""
    return [f"{key}={quoted(str(path.resolve()))}" for key, path in _folders(place).items() if path is not None]


def _folders(place: Place) -> dict[str, Path | None]:
    return {"paths.raw": place.raw, "paths.prepared": place.prepared}


def _data_of(config: Path, moved: dict[str, Path | None]) -> list[str]:
    """Where the data of a run that goes on lie now, for its own configuration says where they lay."""
    stored = OmegaConf.load(config)
    overrides = []
    for key, root in (("data.dataset_dir", "paths.raw"), ("data.prepared_dir", "paths.prepared")):
        then, before, now = OmegaConf.select(stored, key), OmegaConf.select(stored, root), moved[root]
        if now is not None and before is not None and Path(then).is_relative_to(before):
            overrides.append(f"{key}={quoted(str(now.resolve() / Path(then).relative_to(before)))}")
    return overrides
