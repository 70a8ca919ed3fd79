"""The cross-validations among which the best is sought, if they can be compared: same data, cases and scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umamba.cross_validation.tables import foreground_mean
from umamba.evaluation.identity import grown_by
from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import fit_rules
from umamba.evaluation.record import content_of
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.tables import metrics_of
from umamba.inference.ensemble import Ensemble, find_ensemble, read_ensemble
from umamba.inference.rules import Rule
from umamba.raw.file_identity import are_same


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cross-validation, or two whose probabilities are averaged.

    Attributes:
        name: What tables and messages call it.
        ensembles: The ensemble.json of each cross-validation in it.
        scores: A row per case and class, see `umamba.evaluation.evaluate.evaluate`.
        labels: Class name -> value, or region name -> the values it is made of.
        references: Case -> hash of what it was scored against, as in run.json.
        grow: px by which predicted instances were grown.
        pairs: The files of a mean of two, and how they were scored; None of a cross-validation.
    """

    name: str
    ensembles: tuple[Ensemble, ...]
    scores: pd.DataFrame
    labels: Mapping[str, int | Sequence[int]]
    references: Mapping[str, str]
    grow: float = 0
    pairs: tuple[list[Pair], Scoring] | None = None

    @property
    def scoring(self) -> dict[str, Any]:
        """How it was scored, which may be another way than its checkpoints say; for `PoolOptions`."""
        if "nsd_tolerance" not in self.scores:
            return {"grow": self.grow}
        return {"grow": self.grow, "nsd_tolerance": self.scores.groupby("class")["nsd_tolerance"].first().to_dict()}

    @property
    def mean(self) -> float:
        """Over classes of their means over cases, of DSC (of instances: F1)."""
        return foreground_mean(self.scores, metrics_of(self.scores)[0])

    def rules(self) -> list[Rule]:
        """Of post-processing: those that a cross-validation decided, or decided now on the mean of two."""
        if self.pairs is None:
            return self.ensembles[0].rules(self.labels)
        pairs, scoring = self.pairs
        return fit_rules(pairs, scoring.scored, scoring.ignore_label) if scoring.task == "semantic" else []


def open_candidates(folders: Sequence[Path]) -> list[Candidate]:
    """The cross-validations in some folders, see `find_best` for what is refused."""
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"runs names no folder, or one twice: {', '.join(map(str, folders))}.")
    ensembles: list[Ensemble] = []
    for folder in folders:
        path = find_ensemble(folder)
        if path is None:
            raise FileNotFoundError(f"There is no folder {folder}; runs are the folders of cross-validations.")
        ensembles.append(read_ensemble(path))
        if "folds" not in ensembles[-1].content:
            raise ValueError(f"{path} is of no cross-validation; it was chosen among some. Give those folders.")
    for ensemble in ensembles:
        ensemble.check_unchanged()
        if ensemble.mirror != ensembles[0].mirror:
            raise ValueError(
                f"{ensembles[0].path} was scored with mirror={str(ensembles[0].mirror).lower()}, {ensemble.path} with "
                f"mirror={str(ensemble.mirror).lower()}. Score them alike: cross_validation.mirror=... and the command "
                "of the cross-validation again, which trains nothing anew."
            )
    runs = gather([ensemble.path.parent / "tables" for ensemble in ensembles])
    by_folder = {run.folder.resolve(): run for run in runs}
    tables = [(ensemble.path.parent / "tables").resolve() for ensemble in ensembles]
    found = [by_folder[folder] for folder in tables if folder in by_folder]
    if len(found) < len(ensembles) or len({run.dataset for run in runs}) > 1:
        told = "; ".join(f"{run.network} on {run.dataset} ({run.replicate}) in {run.folder}" for run in runs)
        raise ValueError(
            f"These are not different cross-validations of one data set: {told}. Give each once, and those of one data "
            "set."
        )
    _check_growth(found)
    for run, ensemble in zip(found, ensembles, strict=True):
        for pair in run.record["pairs"]:
            if Path(pair["reference"]).is_file():  # else the data lie elsewhere, and are compared where they are read
                check_reference(pair["case"], Path(pair["reference"]), run.record["cases"], ensemble, run.network)
    _check_images(found, ensembles)
    networks = [run.network for run in runs]
    return [
        Candidate(
            name=run.network if networks.count(run.network) == 1 else f"{run.network}, {run.replicate}",
            ensembles=(ensemble,), scores=run.scores, labels=run.record.get("regions") or run.record["labels"],
            references=run.record["cases"], grow=grown_by(run.record),
        )
        for run, ensemble in zip(found, ensembles, strict=True)
        if run is not None
    ]  # fmt: skip


def _check_growth(runs: Sequence[ScoredRun]) -> None:
    """See that all were scored with instances that were grown alike."""
    first, *others = runs
    for run in others:
        if grown_by(run.record) != grown_by(first.record):
            raise ValueError(
                f"{first.folder} was scored with data.grow={grown_by(first.record)}, {run.folder} with "
                f"data.grow={grown_by(run.record)}. Score them alike: data.grow=... and the command of the "
                "cross-validation again, which trains nothing anew."
            )


def check_reference(case: str, reference: Path, scored: Mapping[str, str], ensemble: Ensemble, candidate: str) -> None:
    """See that a case was scored against the reference that there is now."""
    if content_of(reference.resolve()) != scored.get(case):
        raise ValueError(
            f"The reference of {case}, {reference}, is not the one that {candidate} was scored against in "
            f"{ensemble.path.parent}. Give the cross-validation's command again: it scores anew."
        )


def _check_images(runs: Sequence[ScoredRun], ensembles: Sequence[Ensemble]) -> None:
    """See that all were scored on the images that there are now: pairs are predicted from these, as new cases are."""
    seen: dict[str, tuple[list[str], Ensemble]] = {}
    for run, ensemble in zip(runs, ensembles, strict=True):
        paths = {pair["case"]: list(map(Path, pair["images"])) for pair in run.record["pairs"]}
        for case, known in run.record.get("images", {}).items():
            contents = [one.get("content") for one in known]
            if not contents or None in contents:  # of a record from before they were hashed
                continue
            then, other = seen.setdefault(case, (contents, ensemble))
            files = paths.get(case, [])
            gone = not files or not all(path.is_file() for path in files)  # the data lie elsewhere
            if then == contents and (gone or are_same(files, known)):
                continue
            now = "the ones that are there now" if then == contents else f"those of {other.path.parent}"
            raise ValueError(
                f"The images of {case} that {run.network} in {ensemble.path.parent} was scored on are not {now}: they "
                "are of two versions of the data set. Train those of the older one anew, with another run_dir."
            )
