"""How the jobs of a sweep stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from umamba.run.job_state import STOPPED_CODES, Condition, config_of, planned_steps, steps_of
from umamba.run.score import score_of
from umamba.sweep.entry import FOLDER, Entry

_SCORES = ("test/dsc", "test/f1", "val/dice_ema")  # the first that there is, where the run names none


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How a job stands.

    Attributes:
        entry: Which.
        condition: How.
        overrides: What it was given.
        step, steps: Optimizer steps so far, those of its last checkpoint if it does not run, and those to take.
        detail: Why, for people.
        metric, score: The number by which jobs are compared, and its name.
        seconds: For which it has run, all starts together.
    """

    entry: Entry
    condition: Condition
    overrides: Sequence[str] = ()
    step: int | None = None
    steps: int | None = None
    detail: str = ""
    metric: str | None = None
    score: float | None = None
    seconds: float | None = None

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "job": self.entry.name, "folder": str(self.entry.run_dir), "overrides": list(self.overrides),
            "state": self.condition.value, "step": self.step, "steps": self.steps, "metric": self.metric,
            "score": self.score, "seconds": self.seconds, "reason": self.detail or None,
        }  # fmt: skip


def survey(sweep: Path, metric: str | None = None) -> list[Finding]:
    """How all jobs of a sweep stand, in its order.

    Args:
        sweep: Its folder.
        metric: To compare them by, as `score_of` has it; None: what each was asked to optimise, else its test's score.

    Raises:
        FileNotFoundError: It is no folder of a sweep.
        ValueError: A file of a job is none.
    """
    known = {path: path.relative_to(sweep / FOLDER).with_suffix("") for path in (sweep / FOLDER).rglob("*.json")}
    entries = [Entry(sweep=sweep, name=name.as_posix()) for name in known.values()]
    if not entries:  # of a launcher that writes nothing down
        folders = sorted(path.parent for path in sweep.glob("*/config.yaml"))
        entries = [Entry(sweep=sweep, name=folder.name) for folder in folders if config_of(folder) is not None]
    if not entries:
        raise FileNotFoundError(
            f"{sweep} is no folder of a sweep: it has no {FOLDER}/ and no runs. Sweeps lie where hydra.sweep.dir says, "
            "else in logs/sweeps/<time>."
        )
    states = [(entry, entry.state()) for entry in entries]
    return [_look(entry, state, metric) for entry, state in sorted(states, key=lambda pair: pair[1].get("number", 0))]


def varied(findings: Sequence[Finding]) -> list[list[str]]:
    """Of each job the overrides that not all jobs have."""
    common = set.intersection(*(set(finding.overrides) for finding in findings))
    return [[override for override in finding.overrides if override not in common] for finding in findings]


def _look(entry: Entry, state: Mapping[str, Any], metric: str | None) -> Finding:
    saved, reached, steps = _steps(entry.run_dir)
    held = entry.is_held()
    condition, detail = (Condition.RUNNING, "") if held else _condition(entry, state, saved, steps)
    metric, score = _score(entry.run_dir, metric)
    return Finding(
        entry=entry, condition=condition, detail=detail, overrides=state.get("overrides") or _overrides(entry.run_dir),
        step=reached if held else saved, steps=steps, metric=metric, score=score,
        seconds=_seconds(state.get("attempts", []), held=held),
    )  # fmt: skip


def _condition(entry: Entry, state: Mapping[str, Any], saved: int | None, steps: int | None) -> tuple[Condition, str]:
    """Of a job that does not run now, and why."""
    if not state:
        done = saved is not None and steps is not None and saved >= steps
        return (Condition.FINISHED, "") if done else (Condition.STOPPED, "" if saved else "before its first checkpoint")
    if not state["attempts"]:
        submitted = state.get("submitted")
        return Condition.WANTED, f"submitted to SLURM as {submitted}" if submitted else ""
    if entry.is_finished():
        return Condition.FINISHED, ""
    last = state["attempts"][-1]
    code = last.get("exit_code")
    if code == 0:
        return Condition.STOPPED, "other settings are asked for now" if entry.run_dir.is_dir() else "its folder is gone"
    if code is None or code in STOPPED_CODES:
        return Condition.STOPPED, "killed, and so was what ran the sweep" if code is None else last.get("reason") or ""
    return Condition.FAILED, last.get("reason") or ""


def _steps(run_dir: Path) -> tuple[int | None, int | None, int | None]:
    """Steps saved, reached and planned, of a run or of the folds of a cross-validation together."""
    folders = [run_dir] if (run_dir / "config.yaml").is_file() else sorted(run_dir.glob("fold_*/"))
    found = [(*steps_of(folder), planned_steps(folder)) for folder in folders]
    sums = [[number for number in numbers if number is not None] for numbers in zip(*found, strict=True)]
    saved, reached, planned = (sum(numbers) if numbers else None for numbers in sums or ([], [], []))
    return saved, reached, planned


def _score(run_dir: Path, metric: str | None) -> tuple[str | None, float | None]:
    config = config_of(run_dir)
    asked = None if metric is not None or config is None else config.get("optimized_metric")
    for name in [metric] if metric else [*([asked] if asked else []), *_SCORES]:
        with suppress(OSError, ValueError):  # it has none yet
            return name, score_of(run_dir, name)
    return None, None


def _overrides(run_dir: Path) -> list[str]:
    path = run_dir / "overrides.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _seconds(attempts: Sequence[Mapping[str, Any]], *, held: bool) -> float | None:
    """Of all attempts; of one that is under way until now. What a killed one took nobody knows."""
    known = [attempt["seconds"] for attempt in attempts if attempt.get("seconds") is not None]
    if held and attempts and "exit_code" not in attempts[-1]:
        began = datetime.fromisoformat(attempts[-1]["started"])
        known.append((datetime.now().astimezone() - began).total_seconds())
    return round(sum(known), 1) if known else None
