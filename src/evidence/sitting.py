"""One sitting: start what is wanted, as much at a time as the devices take, and stop all before the time is over."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from umamba.evaluation.report.records import read_run
from umamba.evidence.entry import Entry, Finding, survey
from umamba.evidence.job import Job, Place
from umamba.evidence.power import PowerMeter
from umamba.run.devices import Device
from umamba.run.job_state import Condition
from umamba.run.stop import deferred, requested

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_SAVE_SECONDS = 15.0  # between two writes of what a run has taken so far
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_UNITS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may run in a sitting, and for how long.

    Attributes:
        per_device: Runs on one device at a time.
        until: Time of `time.monotonic` from which on nothing may run any more; infinite for no limit.
        stop_seconds: How long before that trainings are stopped, so that they can write their checkpoints.
        start_unfinishable: Start runs that by estimate do not end before the limit.
        retry_failed: Start those again that failed.
        keep_checkpoints: Whether the checkpoints of finished runs stay.
    """

    per_device: int = 1
    until: float = math.inf
    stop_seconds: float = 40.0
    start_unfinishable: bool = False
    retry_failed: bool = False
    keep_checkpoints: bool = False


def seconds_of(text: str | float | None) -> float:
    """A duration such as 540s, 9m, 2.5h or 1d; a number is in seconds, None is for ever.

    Raises:
        ValueError: It is none.
    """
    if text is None:
        return math.inf
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or not float(match[1]):
        raise ValueError(f"limit={text}: expected a duration such as 540s, 9m, 2.5h or 1d.")
    return float(match[1]) * _UNITS[match[2]]


def estimates(entries: Sequence[Entry]) -> dict[str, float]:
    """Seconds that each run takes: as the finished ones of its cell did, else as the list says.

    What the list says is of another machine, so it is scaled by what the finished runs of the data set took of it.
    """
    measured: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for entry in entries:
        if entry.record.is_file():
            try:
                wanted, seconds = entry.wanted, read_run(entry.record)["cost"]["seconds"]
            except ValueError:  # the survey says so
                continue
            measured.setdefault(wanted.cell, []).append(seconds)
            if wanted.seconds:
                ratios.setdefault(wanted.dataset, []).append(seconds / wanted.seconds)
    return {
        entry.wanted.key: mean(measured[entry.wanted.cell])
        if entry.wanted.cell in measured
        else entry.wanted.seconds * mean(ratios.get(entry.wanted.dataset, [1.0]))
        for entry in entries
    }


def run_all(
    entries: Sequence[Entry], chosen: Mapping[str, int], devices: Sequence[Device], place: Place, rules: Rules
) -> None:
    """Train what is wanted of the chosen runs: those that were begun first, then by rank, then the longest.

    Args:
        entries: All of a manifest.
        chosen: Keys of those to run, and the rank of each: the lowest first.
        devices: What to run on.
        place: Script, data and workers of the trainings.
        rules: What may run at a time and until when.

    Raises:
        Stopped: A signal ended it; the trainings have ended too, with their checkpoints.
    """
    takes = estimates(entries)
    open_to = {Condition.WANTED, Condition.STOPPED, *([Condition.FAILED] if rules.retry_failed else [])}
    found = [f for f in survey(entries, place.code) if f.entry.wanted.key in chosen]
    for finding in found:
        if finding.condition is Condition.REFUSED:
            log.warning("%s does not count: %s", finding.entry.wanted.key, finding.detail)
    waiting = [f.entry for f in sorted(found, key=lambda f: _order(f, chosen, takes)) if f.condition in open_to]
    log.info("%d of %d run(s) to do, %d at a time on %s.", len(waiting), len(found), rules.per_device * len(devices),
             ", ".join(device.name for device in devices))  # fmt: skip
    with deferred(), PowerMeter() as meter:
        _Sitting(entries, devices, place, rules, meter).run(waiting)


def _order(finding: Finding, ranks: Mapping[str, int], takes: Mapping[str, float]) -> tuple[bool, int, float, str]:
    entry, key = finding.entry, finding.entry.wanted.key
    return finding.condition is not Condition.STOPPED, ranks[key], -takes[key] * entry.share_left(), key


class _Sitting:
    """The loop, and what is under way in it."""

    def __init__(
        self, entries: Sequence[Entry], devices: Sequence[Device], place: Place, rules: Rules, meter: PowerMeter
    ) -> None:
        self.entries, self.devices, self.place, self.rules, self.meter = entries, devices, place, rules, meter
        self.takes = estimates(entries)
        self.jobs: list[Job] = []
        self._changed = False
        self.deadline = rules.until - rules.stop_seconds  # from here on trainings are stopped
        self._accounted = self._saved = time.monotonic()

    def run(self, waiting: list[Entry]) -> None:
        """Until all are done, or time is over, or a signal came."""
        try:
            while (self.jobs or waiting) and not requested() and time.monotonic() < self.deadline:
                if not self._start(waiting) and not self.jobs:
                    break
                self._step()
        finally:
            self._stop()
        if waiting:
            log.info("%d run(s) were not started: %s.", len(waiting), ", ".join(e.wanted.key for e in waiting))

    def _start(self, waiting: list[Entry]) -> bool:
        """Fill the devices, each time the emptiest; whether anything was started."""
        started = False
        while True:
            taken = {device: sum(job.device == device for job in self.jobs) for device in self.devices}
            device = min(self.devices, key=lambda device: taken[device])
            entry = next((e for e in waiting if self._ends_in_time(e)), None)
            if taken[device] >= self.rules.per_device or entry is None or not self._same_code():
                return started
            waiting.remove(entry)
            started = self._begin(entry, device) or started

    def _same_code(self) -> bool:
        """Whether a run that is started now would be of the version that the others are of."""
        if self._changed or not self.place.unchanged():
            if not self._changed:
                log.error("The code was changed while runs were under way: no other is started.")
            self._changed = True
        return not self._changed

    def _begin(self, entry: Entry, device: Device) -> bool:
        lock = entry.lock
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            log.info("%s: another runner has it.", entry.wanted.key)
            return False
        except NotImplementedError:
            log.warning("The file system of %s has no locks: start one runner only.", entry.folder)
        if entry.record.is_file():  # another runner was faster
            lock.release()
            return False
        job = Job.start(entry, lock, device, self.place)
        self.jobs.append(job)
        log.info("%s: %s on %s.", entry.wanted.key, "goes on" if len(job.state["attempts"]) > 1 else "begins",
                 device.name)  # fmt: skip
        return True

    def _ends_in_time(self, entry: Entry) -> bool:
        if self.rules.start_unfinishable or math.isinf(self.deadline):
            return True
        return time.monotonic() + self.takes[entry.wanted.key] * entry.share_left() <= self.deadline

    def _step(self) -> None:
        """Wait a little, count what was taken, and see who has ended."""
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        passed, self._accounted = now - self._accounted, now
        for job in self.jobs:
            job.account(passed, sum(other.device == job.device for other in self.jobs), self.meter)
        if now - self._saved > _SAVE_SECONDS:
            self._saved = now
            for job in self.jobs:
                job.entry.save_state(job.state)
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self._end(job)

    def _end(self, job: Job) -> None:
        self.jobs.remove(job)
        key = job.entry.wanted.key
        reason = job.finish(keep_checkpoints=self.rules.keep_checkpoints)
        attempt = job.state["attempts"][-1]
        if reason is not None:
            log.error("%s failed: %s", key, reason)
        elif attempt["exit_code"] == 0:
            log.info("%s is done after %.0f s.", key, sum(one["seconds"] for one in job.state["attempts"]))
            self.takes = estimates(self.entries)
        else:
            where = "before its first checkpoint" if attempt["step"] is None else f"at step {attempt['step']}"
            log.info("%s was stopped %s.", key, where)

    def _stop(self) -> None:
        """Stop what runs, with its checkpoint; who does not end in time is killed."""
        for job in self.jobs:
            job.tell_to_stop()
        until = time.monotonic() + self.rules.stop_seconds
        while self.jobs and time.monotonic() < until:
            self._step()
        for job in list(self.jobs):
            log.warning("%s has not ended within %.0f s of being told to, and is killed.", job.entry.wanted.key,
                        self.rules.stop_seconds)  # fmt: skip
            job.process.kill()
            self._end(job)
