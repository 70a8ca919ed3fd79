"""How the numbers of a benchmark came about: data, plans, interruptions, machines, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from umamba.evaluation.identity import differing, facts_of, grown_by
from umamba.evaluation.report import evidence_tables as numbers
from umamba.evaluation.report.networks import title_of
from umamba.evaluation.scoring import grow_remark
from umamba.evaluation.table_text import markdown
from umamba.words import count

_KILLED = (None, -9, 137)  # exit codes of what had no time to write a checkpoint; None: the runner was killed too
_COMMAND = (
    "Both pages, the figure and the tables are made from the records beside them by "
    "`python -m umamba.evaluation.report runs=FOLDER`."
)


def made(records: Sequence[Mapping[str, Any]], faults: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """The section of a page that says what was run, on what, how often it was interrupted, and what does not count."""
    lines = []
    for setting, title in titles.items():
        part = [record for record in records if record["dataset"] == setting]
        if part:
            steps = _listed({f"{record['cost']['steps']} steps" for record in part})
            first, trained = part[0]["run"], part[0]["trained_cases"]
            lines.append(
                f"- {markdown(title)}: {first['configuration']}, fold {first['fold']}, {trained} cases to train on, "
                f"{len(first['cases'])} scored ({first['scored']}), {steps} a run{_plans(part)}."
                + f" {grow_remark(grown_by(first))}".rstrip()
            )
    lines += _interruptions(records)
    devices = _listed({str(record["cost"].get("train_device")) for record in records})
    lines.append(f"- On {devices}, torch {_listed({record['versions']['torch'] for record in records})}.")
    revisions = _listed({str(record["revision"] or "unknown") for record in records})
    codes = len({record["code"] for record in records})
    mixture = "" if codes == 1 else f"; {codes} versions of the code, one for all seeds of a network on a data set"
    lines.append(f"- Commit {revisions}{mixture}.")
    reasons = {record["cost"]["energy_reason"] for record in records if record["cost"].get("energy_reason")}
    if reasons:
        lines.append(f"- Energy was not measured in some runs: {_listed(reasons)}.")
    lines += [f"- Not counted: {name}, {why}." for name, why in faults.items()]
    return "## How it was made\n\n" + "\n".join(lines) + f"\n\n{_COMMAND}"


def _interruptions(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How often runs were interrupted, and what that cost: a stop nothing, a kill what came after a checkpoint."""
    codes = [attempt.get("exit_code") for record in records for attempt in record["attempts"][:-1]]
    if not codes:
        return []
    killed = sum(code in _KILLED for code in codes)
    failed = sum(code is not None and 0 < code < 128 for code in codes)
    epochs = {
        record["run"]["members"][0]["training"]["data"].get("iterations_per_epoch")
        for record in records
        if any(attempt.get("exit_code") in _KILLED for attempt in record["attempts"][:-1])
    }
    parts = [f"{len(codes) - killed - failed} stopped with a checkpoint, of which no step was lost"]
    if killed:
        interval = max((steps for steps in epochs if steps), default=None)
        lost = "the steps since its last checkpoint" + ("" if interval is None else f", at most {interval}")
        parts.append(f"{killed} killed, each of which lost {lost}")
    if failed:
        parts.append(f"{failed} ended with an error and tried again")
    return [f"- Interrupted and gone on with {count(len(codes), 'time')}: {'; '.join(parts)}."]


def _plans(records: Sequence[Mapping[str, Any]]) -> str:
    """In what the plans of a data set's networks differ, which are meant to be one."""
    by_network = {record["network"]: _plan(record["run"]) for record in records}
    reference = by_network.get(numbers.CNN, next(iter(by_network.values())))
    apart = []
    for network in numbers.in_order(by_network):
        keys = differing([reference, by_network[network]])
        apart += [
            f"{key} {by_network[network].get(key)} instead of {reference.get(key)} for {title_of(network)}"
            for key in keys
        ]
    return f"; one plan, but {'; '.join(apart)}" if apart else "; one plan"


def _plan(run: Mapping[str, Any]) -> dict[str, Any]:
    facts = facts_of(run, processed=False)
    return {key.removeprefix("plan."): value for key, value in facts.items() if key.startswith("plan.")}


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))
