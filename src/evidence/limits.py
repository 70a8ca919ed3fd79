"""What may run in a sitting: until when, and what ends in time."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from umamba.evaluation.report.records import read_run
from umamba.evidence.entry import Entry

log = logging.getLogger(__name__)

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
    """A duration such as 540s, 9m, 2.5h or 1d; a number is in seconds, None is for ever (else ValueError)."""
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
        if entry.is_finished():
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


class Limits:
    """Which runs of a manifest may be started at the moment, by the rules of the sitting.

    Attributes:
        deadline: Time of `time.monotonic` from which on trainings are stopped.
        takes: Seconds of each run, see `estimates`.
    """

    def __init__(self, entries: Sequence[Entry], rules: Rules, unchanged: Callable[[], bool]) -> None:
        self.entries, self.rules, self._unchanged = entries, rules, unchanged
        self.deadline = rules.until - rules.stop_seconds
        self._changed = False
        self.learn()

    def learn(self) -> None:
        """Estimate anew, after a run has ended."""
        self.takes = estimates(self.entries)

    def allow(self, entry: Entry) -> bool:
        """Whether a run would end in time, and be of the version of the code that the others are of."""
        if not self.rules.start_unfinishable and self.deadline < time.monotonic() + self.left(entry):
            return False
        if not self._changed and not self._unchanged():
            log.error("The code was changed while runs were under way: no other is started.")
            self._changed = True
        return not self._changed

    def left(self, entry: Entry) -> float:
        """Seconds that a run takes from where it is."""
        return self.takes[entry.wanted.key] * entry.share_left()
