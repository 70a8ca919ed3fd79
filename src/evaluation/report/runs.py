"""Collect scored runs from their folders, and name what is different."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umamba.evaluation.csv_cells import read_scores
from umamba.evaluation.identity import facts_of, name_apart
from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import POSTPROCESSED, POSTPROCESSED_RUN
from umamba.evaluation.record import check_scores, read_record
from umamba.evaluation.report.comparable import check_comparable
from umamba.evaluation.report.conditions import in_names
from umamba.evaluation.report.left_out import Faults, check_any, leave_out_unknown, left_out
from umamba.evaluation.report.records import find_runs, mixed, name_of, read_runs, scores_of
from umamba.evaluation.tables import metrics_of
from umamba.evaluation.training_data import sets_apart
from umamba.files import read_json
from umamba.inference.mixture import changed_since

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run.json and the scores beside it; one that holds post-processed scores too makes two of these.

    Attributes:
        folder: Where run.json and scores.csv lie.
        record: What run.json holds, see `umamba.evaluation.record.run_record`.
        scores: A row per case and class, see `umamba.evaluation.evaluate.evaluate`.
        processed: Whether the scores are those after post-processing.
        modified: When run.json was written, in seconds.
        suffix: What tells the network apart from others of its name or data set, see `name_apart`.
        setting: Name of the data set in the list of runs that it was made from; None of a single run.
    """

    folder: Path
    record: dict[str, Any]
    scores: pd.DataFrame
    processed: bool = False
    modified: float = 0.0
    suffix: str = ""
    setting: str | None = None

    @property
    def dataset(self) -> str:
        """Name of the data set, and which of its cases were scored if not the test set."""
        if self.setting is not None:
            return self.setting
        kind = {"validation": ", validation", "training": ", cases trained on",
                "out_of_fold": ", cross-validation"}  # fmt: skip
        return self.record["dataset"] + kind.get(self.record["scored"], "")

    @property
    def network(self) -> str:
        """Name of the model config, what tells it apart, and what was done beyond the plain prediction."""
        return self.record["network"] + self.suffix + self.extras

    @property
    def extras(self) -> str:
        """What was done beyond the plain prediction."""
        members = len(self.record["members"])
        extras = ["mirrored"] if self.record["options"].get("mirror") else []
        extras += [f"ensemble of {members}"] if members > 1 and self.record["scored"] != "out_of_fold" else []
        return "".join(f", {extra}" for extra in [*extras, *(["post-processed"] if self.processed else [])])

    @property
    def facts(self) -> dict[str, Any]:
        """What replicates have in common, see `facts_of`."""
        return facts_of(self.record, self.processed)

    @property
    def pairs(self) -> list[Pair]:
        """The scored files that are still where they were, as they were written, and have images."""
        pairs: list[Pair] = []
        for entry in self.record.get("pairs", ()):
            prediction, reference = Path(entry["prediction"]), Path(entry["reference"])
            if self.processed:
                prediction = prediction.parent.with_name(POSTPROCESSED) / prediction.name
            images = tuple(map(Path, entry["images"]))
            if images and all(path.is_file() for path in (prediction, reference, *images)):
                pairs.append(Pair(case=entry["case"], images=images, prediction=prediction, reference=reference))
        changed = changed_since({pair.case: pair.prediction for pair in pairs})
        return [pair for pair in pairs if pair.case not in changed]

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Commit, time and versions of the trainings, as train.py left them beside tables or checkpoints.

        Empty where there is none.
        """
        checkpoints = [Path(path) for path in self.record.get("checkpoints", ())]
        beside = _provenance(self.folder.parent)
        return [beside] if beside else [_provenance(checkpoint.parent.parent) for checkpoint in checkpoints]

    @property
    def folds(self) -> tuple[str, ...]:
        """Folds of its checkpoints, each once."""
        return tuple(sorted({str(member["fold"]) for member in self.record["members"]}))

    @property
    def training_sets(self) -> tuple[tuple[str, int], ...]:
        """Hash and number of the cases of each split that its checkpoints are of; empty where it is unknown."""
        data = [member.get("data") for member in self.record["members"]]
        return tuple(sorted({(one["set"], one["set_cases"]) for one in data if one})) if all(data) else ()

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Hashes of the cases that its checkpoints were trained on; empty where it is unknown."""
        data = [member.get("data") for member in self.record["members"]]
        return tuple(sorted(one["trained_on"] for one in data)) if all(data) else ()

    @property
    def replicate(self) -> str:
        """What tells runs of one network apart."""
        seeds = sorted({str(m["seed"]) for m in self.record["members"] if m["seed"] is not None})
        weights = sorted({m["imported"][:6] for m in self.record["members"] if m["imported"]})
        parts = [("fold", self.folds), ("seed", seeds), ("weights", weights)]
        return ", ".join(f"{name}{'s' * (len(v) > 1 and name != 'weights')} {' + '.join(v)}" for name, v in parts if v)


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "provenance.json")
    except OSError:  # no reason to be without a report
        return {}


def gather(folders: Sequence[Path | str], faults: Faults | None = None) -> list[ScoredRun]:
    """Find all scored runs below some folders, and name what is different; or those of the records of a benchmark.

    A training that was scored twice in the same way (by train.py and again by eval.py, or in a copied folder) counts
    once, the later one. Networks of one name that were configured differently get names that say in what.

    Args:
        folders: Looked through with all that is below them.
        faults: Gets what cannot be read and is left out: a record that is none, or beside no scores or other ones; None
            refuses the first.

    Raises:
        FileNotFoundError: A folder does not exist, or there are neither run.json nor scores.csv below it.
        ValueError: Runs were scored with different protocols, or runs of one data set cannot be compared (see
            `check_comparable`); none can be read, or without `faults` one cannot.
    """
    runs = [run for folder in map(Path, folders) for run in _read_below(folder, faults)]
    check_any(runs, faults or {})
    families = {run.record["protocol"].split("/")[0]: run.folder for run in runs}
    if len(families) > 1:
        raise ValueError(
            "These runs were scored with different protocols, which no table mixes: "
            + "; ".join(f"{protocol} in {folder}" for protocol, folder in families.items())
        )
    runs = _name(_each_once(runs))
    check_comparable(runs)
    log.info("Found %d scored run(s).", len(runs))
    return runs


def _read_below(folder: Path, faults: Faults | None) -> Iterator[ScoredRun]:
    paths, records = sorted(folder.rglob("run.json")), find_runs(folder)
    if not paths and not records:
        leave_out_unknown(folder, faults)
    yield from of_records(read_runs(records, faults), folder)
    for path in paths:
        with left_out(faults, path):
            yield from _read(path)


def _read(path: Path) -> list[ScoredRun]:
    """A run.json and the scores beside it."""
    table = path.parent / "scores.csv"
    if not table.is_file():
        raise ValueError(f"{path} has no scores.csv beside it. Score the run again with eval.py.")
    record = read_record(path)
    try:
        scores = read_scores(table)
        cases = set(scores["case"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{table} is no table of scores ({error}). Score the run again with eval.py.") from error
    check_scores(record, cases, table)
    run = ScoredRun(
        folder=path.parent, record=record, scores=scores.drop(columns="run", errors="ignore"),
        modified=path.stat().st_mtime,
    )  # fmt: skip
    try:
        _ = run.facts, run.replicate, run.pairs, run.training_sets, run.trained_on
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of a scored run ({error!r}). Score the run again with eval.py."
        ) from error
    if "run" not in scores:
        return [run]
    return [
        replace(run, processed=processed, scores=run.scores[scores["run"] == kind].reset_index(drop=True))
        for processed, kind in ((False, "plain"), (True, POSTPROCESSED_RUN))
    ]


def of_records(records: Sequence[Mapping[str, Any]], folder: Path) -> list[ScoredRun]:
    """Runs of a benchmark's records; what cannot stand in its cell is named in a warning and left out."""
    faults = mixed(records)
    for name, why in faults.items():
        log.warning("%s in %s does not count: %s.", name, folder, why)
    return [
        ScoredRun(
            folder=folder / record["dataset"],
            record={**record["run"], "network": record["network"], "cost": record["cost"], "pairs": []},
            scores=scores_of(record),
            setting=record["dataset"],
        )
        for record in records
        if name_of(record) not in faults
    ]


def _each_once(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    found: dict[str, ScoredRun] = {}
    what = [repr((run.dataset, run.record["network"], run.replicate, sorted(run.facts.items()))) for run in runs]
    for run, name in zip(runs, what, strict=True):
        data = {one.trained_on for one, other in zip(runs, what, strict=True) if other == name and one.trained_on}
        # Scores of an older version do not say what was trained on.
        key = f"{name} {run.trained_on or (data.pop() if len(data) == 1 else ())}"
        kept, dropped = (run, found.get(key)) if key not in found or run.modified > found[key].modified else (
            found[key], run)  # fmt: skip
        found[key] = kept
        if dropped is not None and not _same_scores(kept, dropped):
            log.warning(
                "%s and %s are the same training (%s on %s, %s) with different scores; the later one, %s, counts.",
                dropped.folder, kept.folder, kept.record["network"], kept.dataset, kept.replicate, kept.folder,
            )  # fmt: skip
    return list(found.values())


def _same_scores(run: ScoredRun, other: ScoredRun) -> bool:
    """Whether two scored runs have the same scores; of different versions, as far as both have a metric."""
    metrics = [metric for metric in metrics_of(run.scores) if metric in other.scores]
    one, two = (each.scores.set_index(["case", "class"]).sort_index() for each in (run, other))
    return bool(
        metrics
        and one.index.equals(two.index)
        and np.allclose(one[metrics].to_numpy(float), two[metrics].to_numpy(float), atol=1e-6, equal_nan=True)
    )


def _name(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """The runs with suffixes where networks of one name differ.

    They are told apart first by their training, whatever was done beyond the plain prediction, then by the rest. Where
    runs of a data set differ in more than their networks, all of its names say in what.
    """
    runs = _by_training_set(runs)
    told = {}
    for dataset in {run.dataset for run in runs}:
        some = [run for run in runs if run.dataset == dataset]
        told[dataset] = in_names([run.record["network"] for run in some], [run.facts for run in some])
    beyond = ("mirror", "members", "rules")
    runs = _suffix(runs, [(run.dataset, run.record["network"] + run.suffix) for run in runs], beyond, told)
    return _suffix(runs, [(run.dataset, run.network) for run in runs], (), {})


def _by_training_set(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Whatever a network is called, it is said where the others of its data set were trained on other cases."""
    named: dict[int, ScoredRun] = {}
    for dataset in {run.dataset for run in runs}:
        some = {index: run for index, run in enumerate(runs) if run.dataset == dataset}
        suffixes = sets_apart([run.training_sets for run in some.values()])
        named |= {
            i: replace(run, suffix=run.suffix + end) for (i, run), end in zip(some.items(), suffixes, strict=True)
        }
    return [named[index] for index in range(len(runs))]


def _suffix(
    runs: Sequence[ScoredRun],
    names: Sequence[tuple[str, str]],
    leave_out: Sequence[str],
    told: Mapping[str, Sequence[str]],
) -> list[ScoredRun]:
    facts = [{key: value for key, value in run.facts.items() if key not in leave_out} for run in runs]
    keys = [repr(sorted(one.items())) for one in facts]
    apart: dict[tuple[str, str, str], str] = {}
    for name in set(names):
        distinct = {key: one for key, one, other in zip(keys, facts, names, strict=True) if other == name}
        suffixes = name_apart(list(distinct.values()), told.get(name[0], ()))
        for key, suffix in zip(distinct, suffixes, strict=True):
            apart[*name, key] = suffix
    return [
        replace(run, suffix=run.suffix + apart[*name, key]) for run, name, key in zip(runs, names, keys, strict=True)
    ]
