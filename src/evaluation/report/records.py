"""The record of one run of a benchmark: what was trained, with which code and data, its scores by case and its cost.

One JSON file, ``<folder>/<data set>/<network>_<seed>.json``, from which every table can be made again; the files that
it was made from are not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from umamba.evaluation.identity import grown_by
from umamba.evaluation.report.left_out import Faults, left_out
from umamba.evaluation.report.record_faults import fault_of
from umamba.files import load_json
from umamba.words import in_words

VERSION = 1
_NEEDED = (
    "dataset",
    "title",
    "network",
    "seed",
    "overrides",
    "code",
    "config_hash",
    "plan_hash",
    "versions",
    "cost",
    "attempts",
    "run",
    "scores",
)
_OTHER_DATA = "data_hash"
_MUST_AGREE = {  # within a cell of the table
    "overrides": "other settings",
    "code": "another version of the code",
    "config_hash": "another configuration",
    "plan_hash": "another plan",
    _OTHER_DATA: "other data",
}


def read_run(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        ValueError: It is none, or of a version that is not known here; it lies under another run's name, as a copy
            does; or it does not agree with itself, see `umamba.evaluation.report.record_faults`.
    """
    try:
        record = load_json(path, advice="Remove it, and run it again.")
        missing = [key for key in _NEEDED if key not in record]
        if record["version"] != VERSION or missing:
            lacks = f", it lacks {', '.join(missing)}" if missing else ""
            raise ValueError(f"{path} is a record of version {record['version']}, not {VERSION}{lacks}.")
        if (path.parent.name, path.stem) != tuple(name_of(record).rsplit("/", 1)):
            raise ValueError(
                f"{path} holds the record of {name_of(record)}, which would count twice or for another run. Put it "
                "back under its own name, or remove it."
            )
        if fault := _fault_of(record):
            raise ValueError(f"{path}: {fault}. It was edited or cut; remove it, and run it again.")
        return record
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a run ({in_words(error)}). Remove it, and run it again.") from error


def _fault_of(record: dict[str, Any]) -> str | None:
    try:
        return fault_of(record)
    except (ValueError, OverflowError) as error:
        return f"it holds a value that none has ({error})"


def read_runs(paths: Iterable[Path], faults: Faults | None = None) -> list[dict[str, Any]]:
    """Read records; `faults` gets those that are none, see `left_out`."""
    records = []
    for path in paths:
        with left_out(faults, path):
            records.append(read_run(path))
    return records


def find_runs(folder: Path) -> list[Path]:
    """The records below a folder, sorted."""
    return sorted(folder.glob("*/*_*.json"))


def scores_of(record: Mapping[str, Any]) -> pd.DataFrame:
    """The scores of a record, as `umamba.evaluation.evaluate.evaluate` gives them."""
    table = pd.DataFrame(record["scores"]["rows"], columns=record["scores"]["columns"])
    numbers = [name for name in table.columns if name not in ("case", "class")]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    return table.assign(protocol=record["run"]["protocol"])


def name_of(record: Mapping[str, Any]) -> str:
    """The name of a record, below its folder and without the ending."""
    return f"{record['dataset']}/{record['network']}_{record['seed']}"


def mixed(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What cannot stand in one cell of a table with the first run of it, or not in one table with the others.

    Networks of a data set may differ in all but the data that they were trained on and are scored with, and how far
    predicted instances were grown.

    Args:
        records: Of any cells; the first of a cell, by its seed, decides.

    Returns:
        Name -> why it does not count; empty if all is well.
    """
    faults: dict[str, str] = {}
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    of_data: dict[str, Mapping[str, Any]] = {}
    for record in sorted(records, key=lambda one: (one["dataset"], one["network"], one["seed"])):
        kept = first.setdefault((record["dataset"], record["network"]), record)
        differing = [what for key, what in _MUST_AGREE.items() if kept.get(key) != record.get(key)]
        if differing:
            faults[name_of(record)] = f"{' and '.join(differing)} than seed {kept['seed']} of its cell"
            continue
        beside = of_data.setdefault(record["dataset"], record)
        if grown_by(beside["run"]) != grown_by(record["run"]):
            faults[name_of(record)] = (
                f"scored with data.grow={grown_by(record['run'])}, {name_of(beside)} with {grown_by(beside['run'])}"
            )
        elif beside.get(_OTHER_DATA) != record.get(_OTHER_DATA):
            faults[name_of(record)] = f"{_MUST_AGREE[_OTHER_DATA]} than {name_of(beside)}"
    return faults
