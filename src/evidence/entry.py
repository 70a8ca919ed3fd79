"""What is known of each wanted run, from its files.

These are state.json and the run's folder while it is not done, and its record when it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.evaluation.report.records import mixed, name_of, read_run
from umamba.evidence.manifest import Wanted
from umamba.run.job_state import STOPPED_CODES, Condition, planned_steps, read_state, steps_of
from umamba.run.kept_job import JobFiles


@dataclass(frozen=True, kw_only=True)
class Entry(JobFiles):
    """A wanted run and where its files are.

    Attributes:
        wanted: What it is.
        folder: Its own: state.json, output.log and the run's folder ``run``.
        record: Its record's file, written when it is done.
    """

    wanted: Wanted
    folder: Path
    record: Path

    @property
    def run_dir(self) -> Path:
        """Of train.py."""
        return self.folder / "run"

    def file(self, ending: str) -> Path:
        """See the base."""
        return self.folder / {".json": "state.json", ".lock": ".lock", ".log": "output.log"}[ending]

    def state(self) -> dict[str, Any]:
        """{"overrides": [...], "code": ..., "revision": ..., "attempts": [...]}; empty if it was never started.

        Raises:
            ValueError: state.json is no such file.
        """
        return read_state(self.file(".json"), ("overrides", "code"), self.folder)

    def is_finished(self) -> bool:
        """Whether it is recorded."""
        return self.record.is_file()

    def is_untrained(self, state: dict[str, Any]) -> bool:
        """Whether no start has kept any step, by its files and its state: to begin anew mixes nothing."""
        return not any(self.run_dir.glob("checkpoints/*.ckpt")) and not any(
            attempt.get("step") for attempt in state["attempts"]
        )

    def share_left(self) -> float:
        """About how much of the run is still to do, 0 to 1."""
        saved, planned = steps_of(self.run_dir)[0], planned_steps(self.run_dir)
        return 1.0 if saved is None or not planned else max(0.0, 1 - saved / planned)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How an entry stands.

    Attributes:
        entry: The run of the list.
        condition: Whether it is wanted, running, stopped, finished, failed or refused.
        detail: Why, in words.
        step: Steps that its checkpoint has done; None without one.
        code: Hash of the code that made what there is of it; None if there is nothing.
    """

    entry: Entry
    condition: Condition
    detail: str = ""
    step: int | None = None
    code: str | None = None


def entries_of(runs: Iterable[Wanted], state: Path, records: Path) -> list[Entry]:
    """Where the files of wanted runs are."""
    return [Entry(wanted=run, folder=state / run.key, record=records / f"{run.key}.json") for run in runs]


def survey(entries: Sequence[Entry], code: str) -> list[Finding]:
    """How all entries stand; nothing of other settings or of two versions in one cell counts.

    Args:
        entries: All of a manifest, for cells are looked at as a whole.
        code: `code_hash` of the code that would train now.
    """
    findings = []
    for entry in entries:
        try:
            findings.append(_look(entry))
        except ValueError as error:  # a broken file of one run stops no other
            findings.append(Finding(entry=entry, condition=Condition.REFUSED, detail=str(error)))
    records = [read_run(f.entry.record) for f in findings if f.condition is Condition.FINISHED]
    faults, versions = mixed(records), {(r["dataset"], r["network"]): r["code"] for r in reversed(records)}
    for finding in findings:
        wanted = finding.entry.wanted
        if finding.condition is Condition.STOPPED and finding.code is not None:
            versions.setdefault((wanted.dataset, wanted.network), finding.code)
    return [_with_cell(f, faults, versions.get((f.entry.wanted.dataset, f.entry.wanted.network)), code)
            for f in findings]  # fmt: skip


def _look(entry: Entry) -> Finding:
    """How an entry stands by itself."""
    asked = list(entry.wanted.overrides)
    if entry.is_finished():
        record = read_run(entry.record)
        if record["overrides"] != asked:
            return Finding(entry=entry, condition=Condition.REFUSED, code=record["code"], detail=(
                f"{entry.record} was made with other settings ({_apart(record['overrides'], asked)}). Move it away to "
                "run it anew."))  # fmt: skip
        steps = record["cost"].get("steps")
        return Finding(entry=entry, condition=Condition.FINISHED, step=steps, code=record["code"])
    if not entry.folder.is_dir():
        return Finding(entry=entry, condition=Condition.WANTED)
    held, state = entry.is_held(), entry.state()
    if held or not state:
        return Finding(entry=entry, condition=Condition.RUNNING if held else Condition.WANTED)
    untrained = entry.is_untrained(state)
    if state["overrides"] != asked and untrained:
        return Finding(entry=entry, condition=Condition.WANTED, detail="begun with other settings; nothing was trained")
    if state["overrides"] != asked:
        return Finding(entry=entry, condition=Condition.REFUSED, code=state["code"], detail=(
            f"{entry.folder} was begun with other settings ({_apart(state['overrides'], asked)}). Remove it to begin "
            "anew."))  # fmt: skip
    last, step = state["attempts"][-1], steps_of(entry.run_dir)[0]
    if last.get("exit_code") in (None, *STOPPED_CODES):
        code = None if untrained else state["code"]
        return Finding(entry=entry, condition=Condition.STOPPED, step=step, code=code)
    return Finding(
        entry=entry, condition=Condition.FAILED, detail=last.get("reason", ""), step=step, code=state["code"]
    )


def _with_cell(finding: Finding, faults: dict[str, str], version: str | None, code: str) -> Finding:
    """The same entry, seen beside the others of its cell."""
    entry = finding.entry
    detail = ""
    if finding.condition is Condition.FINISHED:
        fault = faults.get(name_of({"dataset": entry.wanted.dataset, "network": entry.wanted.network,
                                    "seed": entry.wanted.seed}))  # fmt: skip
        detail = f"{entry.record}: {fault}. Move it away to run it anew." if fault else ""
    elif finding.condition in (Condition.WANTED, Condition.STOPPED, Condition.FAILED):
        itself = finding.condition is Condition.STOPPED and finding.code is not None
        began = finding.code if itself else version
        if began is not None and began != code:
            what = "It was" if itself else f"Runs of {entry.wanted.cell} were"
            detail = (
                f"{what} trained with the code {began}, this is {code}. Take that version of the code, or remove what "
                "it made."
            )
    if not detail:
        return finding
    return Finding(entry=entry, condition=Condition.REFUSED, detail=detail, step=finding.step, code=finding.code)


def _apart(one: Sequence[str], other: Sequence[str]) -> str:
    parts = [f"then {', '.join(x for x in one if x not in other)}" if set(one) - set(other) else "",
             f"now {', '.join(x for x in other if x not in one)}" if set(other) - set(one) else ""]  # fmt: skip
    return "; ".join(filter(None, parts)) or "in another order"
