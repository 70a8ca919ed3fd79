"""One sitting: start what is wanted, as much at a time as the devices take, and stop all before the time is over."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from umamba.evidence.entry import Entry, Finding, survey
from umamba.evidence.job import Place, Training
from umamba.evidence.limits import Limits, Rules
from umamba.evidence.power import PowerMeter
from umamba.run.devices import Device, Slot
from umamba.run.job_state import Condition
from umamba.run.jobs import run_jobs

log = logging.getLogger(__name__)


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
    limits = Limits(entries, rules, place.unchanged)
    open_to = {Condition.WANTED, Condition.STOPPED, *([Condition.FAILED] if rules.retry_failed else [])}
    found = [f for f in survey(entries, place.code) if f.entry.wanted.key in chosen]
    for finding in found:
        if finding.condition is Condition.REFUSED:
            log.warning("%s does not count: %s", finding.entry.wanted.key, finding.detail)
    waiting = [f.entry for f in sorted(found, key=lambda f: _order(f, chosen, limits)) if f.condition in open_to]
    log.info("%d of %d run(s) to do, %d at a time on %s.", len(waiting), len(found), rules.per_device * len(devices),
             ", ".join(device.name for device in devices))  # fmt: skip
    with PowerMeter() as meter:
        trainings = [
            Training(
                name=entry.wanted.key, log=entry.file(".log"), entry=entry, place=place, meter=meter,
                limits=limits,
            )
            for entry in waiting
        ]  # fmt: skip
        try:
            run_jobs(trainings, _slots(devices, rules, place), until=limits.deadline, patience=rules.stop_seconds)
        finally:
            if left := [training.name for training in trainings if not training.asked]:
                log.info("%d run(s) were not started: %s.", len(left), ", ".join(left))


def _order(finding: Finding, ranks: Mapping[str, int], limits: Limits) -> tuple[bool, int, float, str]:
    entry, key = finding.entry, finding.entry.wanted.key
    return finding.condition is not Condition.STOPPED, ranks[key], -limits.left(entry), key


def _slots(devices: Sequence[Device], rules: Rules, place: Place) -> list[Slot]:
    """Places by the names of their devices, with the threads of a training each."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(place.threads))
    ours = {key: value for key, value in {"PYTHONUNBUFFERED": "1", **threads}.items() if key not in os.environ}
    slots = [Slot(name=device.name, environment={**ours, **device.environment}) for device in devices]
    return slots * rules.per_device
