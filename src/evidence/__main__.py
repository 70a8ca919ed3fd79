"""Train all runs of a manifest, packed on the devices at hand, and leave a record of each.

    python -m umamba.evidence manifest=short raw=/data/raw prepared=/scratch/prepared state=/scratch/evidence limit=9h
    python -m umamba.evidence status manifest=short state=/scratch/evidence

The same call goes on where the last one ended, however it did. What is done is kept as a record, from which
`python -m umamba.evaluation.report runs=<records>` makes every table.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from umamba.help import exit_with_help

STARTED = time.monotonic()  # limit= counts from here, and so do the imports that take seconds

if __name__ == "__main__":
    exit_with_help(__doc__, "evidence")

from omegaconf import DictConfig

from umamba.evidence.entry import Entry, Finding, entries_of, survey
from umamba.evidence.job import Place
from umamba.evidence.limits import Rules, estimates, seconds_of
from umamba.evidence.manifest import Wanted, read_manifest
from umamba.evidence.settings import check_settings
from umamba.evidence.sitting import run_all
from umamba.locations import ROOT
from umamba.machine import usable_cpus
from umamba.plain import check_option_types, plain
from umamba.resolvers import register_resolvers
from umamba.run.command import command, run_command
from umamba.run.devices import find_devices, workers_per_run
from umamba.run.job_state import Condition, show_states
from umamba.run.provenance import code_hash, git_revision
from umamba.typed import is_whole

log = logging.getLogger(__name__)
register_resolvers()

ACTIONS = ("run", "status")
TYPES = {
    "manifest": Path, "state": Path, "records": Path, "raw": Path | None, "prepared": Path | None,
    "script": Path | None, "only": str | list[str] | None, "per_gpu": int, "workers": int | None, "stop_seconds": float,
    "limit": str | float | None, "start_unfinishable": bool, "retry_failed": bool, "keep_checkpoints": bool,
}  # fmt: skip


@command("evidence")
def main(cfg: DictConfig) -> None:
    """See the module."""
    check_option_types(cfg, TYPES)
    if cfg.action not in ACTIONS:
        raise ValueError(f"action={cfg.action}: expected one of {', '.join(ACTIONS)}.")
    script = Path(cfg.script) if cfg.script else ROOT / "train.py"
    if not script.is_file():
        raise FileNotFoundError(f"There is no {script}: the runner needs a checkout of the project, with train.py.")
    wanted = read_manifest(cfg.manifest)
    chosen = _chosen(wanted, plain(cfg.only))
    entries = entries_of(wanted, Path(cfg.state), Path(cfg.records))
    if cfg.script is None:  # another one may have other options
        check_settings(entries)
    if cfg.action == "run":
        _run(cfg, script, entries, chosen)
    show(survey(entries, code_hash()), chosen, estimates(entries))


def _run(cfg: DictConfig, script: Path, entries: Sequence[Entry], chosen: Mapping[str, int]) -> None:
    devices = find_devices(plain(cfg.gpus))
    for key in ("workers", "stop_seconds"):
        if cfg[key] is not None and cfg[key] < 0:
            raise ValueError(f"{key}={cfg[key]}: expected 0 or more.")
    if not is_whole(cfg.per_gpu, 1):
        raise ValueError(f"per_gpu={cfg.per_gpu}: expected how many runs a device takes at a time, at least 1.")
    rules = Rules(
        per_device=cfg.per_gpu,
        until=STARTED + seconds_of(cfg.limit),
        stop_seconds=float(cfg.stop_seconds),
        start_unfinishable=cfg.start_unfinishable,
        retry_failed=cfg.retry_failed,
        keep_checkpoints=cfg.keep_checkpoints,
    )
    at_once = cfg.per_gpu * len(devices)
    code = code_hash()
    place = Place(
        script=script,
        raw=Path(cfg.raw) if cfg.raw else None,
        prepared=Path(cfg.prepared) if cfg.prepared else None,
        workers=workers_per_run(at_once) if cfg.workers is None else cfg.workers,
        threads=max(1, usable_cpus() // at_once),
        code=code,
        revision=git_revision(),
        unchanged=lambda: code_hash() == code,
    )
    if cfg.script is None:
        check_settings([e for e in entries if e.wanted.key in chosen and not e.is_finished()], place)
    run_all(entries, chosen, devices, place, rules)


def _chosen(wanted: Sequence[Wanted], only: str | list[str] | None) -> dict[str, int]:
    """Keys that match one of the patterns, and which of them comes first; all without any."""
    patterns = ["*"] if only is None else [only] if isinstance(only, str) else only
    matching = {run.key: [i for i, pattern in enumerate(patterns) if fnmatch(run.key, pattern)] for run in wanted}
    idle = [pattern for i, pattern in enumerate(patterns) if not any(i in found for found in matching.values())]
    if idle or not patterns:
        named = ", ".join(idle) or "[]"
        raise ValueError(f"only={named} matches none of the runs, which are called like {wanted[0].key}.")
    return {key: found[0] for key, found in matching.items() if found}


def show(findings: Sequence[Finding], chosen: Collection[str], takes: dict[str, float]) -> None:
    """Print one table: a line per run, and how many there are of each state."""
    shown = [finding for finding in findings if finding.entry.wanted.key in chosen]
    left = sum(takes[f.entry.wanted.key] for f in shown if f.condition not in (Condition.FINISHED, Condition.REFUSED))
    rows = [
        (f.condition, {
            "run": f.entry.wanted.key, "state": f.condition.value, "step": "" if f.step is None else str(f.step),
            "about s": f"{takes[f.entry.wanted.key]:.0f}", "why": f.detail,
        })
        for f in shown
    ]  # fmt: skip
    show_states(rows, f"; about {left / 3600:.1f} h of runs to do.")


def command_line(arguments: Sequence[str]) -> list[str]:
    """`status` as the first argument means action=status."""
    first, *rest = arguments or [""]
    return [f"action={first}", *rest] if first and "=" not in first and not first.startswith("-") else list(arguments)


if __name__ == "__main__":
    sys.argv[1:] = command_line(sys.argv[1:])
    run_command(main)
