"""Find the best of several trained configurations of one data set, as nnU-Net does: by scores of unseen cases.

Candidates are cross-validations, of any network, plan and configuration, and the mean of the probabilities of each two.
All are scored on the same cases, each case by networks that did not see it. The largest mean foreground DSC decides
(the mean over classes of their means over cases); of equal ones the first, and single ones come before pairs.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umamba.cross_validation.command import predict_command
from umamba.cross_validation.folds import PoolOptions, predict_held_out, read_folds
from umamba.cross_validation.tables import foreground_mean
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.file_names import file_names
from umamba.evaluation.identity import grown_by
from umamba.evaluation.pairs import Pair, references_of
from umamba.evaluation.postprocessing import fit_rules
from umamba.evaluation.prepared import prepare
from umamba.evaluation.record import content_of
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.same_table import note_on_scores
from umamba.evaluation.scoring import Scoring, grow_remark
from umamba.evaluation.shown_table import show_table
from umamba.evaluation.tables import describe, metrics_of, write_tables
from umamba.files import writing_into
from umamba.inference.averaged import average
from umamba.inference.decision import Decision
from umamba.inference.ensemble import FILE, Ensemble, find_ensemble, read_ensemble, write_ensemble
from umamba.inference.rules import Rule
from umamba.raw.file_identity import are_same
from umamba.raw.readers import read_label, write_label

log = logging.getLogger(__name__)

_WORK = "probabilities"  # in the output folder, until all pairs are scored
REMARK = "Each case predicted by networks that did not see it."


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


def find_best(
    folders: Sequence[Path], output: Path, options: PoolOptions, *, pairs: bool = True, keep: bool = False
) -> Path:
    """Score all candidates on the same cases, choose, and write the chosen one down for predict.py.

    Args:
        folders: Of cross-validations, each with its ensemble.json and tables.
        output: Gets tables/ with a row for each candidate, label maps of pairs, and at last ensemble.json.
        options: Device, trust and workers; whether to mirror is as the cross-validations were scored.
        pairs: Score the mean of each two as well.
        keep: Keep their probabilities.

    Raises:
        FileNotFoundError: A folder has no ensemble.json, or a checkpoint that it names is missing.
        ValueError: They cannot be compared: other data sets, cases, labels, protocol, tolerances, growth or mirroring;
            names two and what differs. Or checkpoints were trained on since.
    """
    single = _singles(folders)
    (output / FILE).unlink(missing_ok=True)
    with writing_into(output):
        candidates = list(single)
        if pairs and len(single) > 1:
            candidates += _means_of_two(single, output, options)
            if not keep:
                shutil.rmtree(output / _WORK)
        return _choose(candidates, output)


def _singles(folders: Sequence[Path]) -> list[Candidate]:
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
        raise ValueError(
            f"These are not different cross-validations of one data set: {_listed(runs)}. Give each once, and those of "
            "one data set."
        )
    _check_growth(found)
    for run, ensemble in zip(found, ensembles, strict=True):
        for pair in run.record["pairs"]:
            if Path(pair["reference"]).is_file():  # else the data lie elsewhere, and are compared where they are read
                _check_reference(pair["case"], Path(pair["reference"]), run.record["cases"], ensemble, run.network)
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


def _listed(runs: Sequence[ScoredRun]) -> str:
    return "; ".join(f"{run.network} on {run.dataset} ({run.replicate}) in {run.folder}" for run in runs)


def _means_of_two(single: Sequence[Candidate], output: Path, options: PoolOptions) -> list[Candidate]:
    """The mean of the probabilities of each two, case by case."""
    alike = replace(options, mirror=single[0].ensembles[0].mirror, scoring=single[0].scoring)
    stems = file_names([candidate.name for candidate in single])
    scored = [_probabilities(candidate, output / _WORK / stems[candidate.name], alike) for candidate in single]
    found = []
    for (one, made), (other, (others, *_)) in itertools.combinations(zip(single, scored, strict=True), 2):
        pairs, scoring, decision = made
        place = output / "pairs" / f"{stems[one.name]}+{stems[other.name]}"
        mean = [_mean(pair, others[case], decision, place) for case, pair in pairs.items()]
        found.append(
            Candidate(
                name=f"{one.name} + {other.name}",
                ensembles=one.ensembles + other.ensembles,
                scores=evaluate(mean, scoring, workers=options.workers),
                labels=one.labels,
                references=one.references,
                grow=one.grow,
                pairs=(mean, scoring),
            )
        )
    return found


def _probabilities(
    candidate: Candidate, place: Path, options: PoolOptions
) -> tuple[dict[str, Pair], Scoring, Decision]:
    """Each case with the label map of the fold that held it out, and the probabilities beside it."""
    (ensemble,) = candidate.ensembles
    numbers = [fold["fold"] for fold in ensemble.content["folds"]]
    pairs: dict[str, Pair] = {}
    for fold in read_folds(dict(zip(numbers, ensemble.groups[0].checkpoints, strict=True)), options):
        folder = place / f"fold_{fold.number}"
        prepared = prepare([fold.checkpoint], fold.datamodule, folder, options.of_run())
        for case, reference in references_of(prepared.chosen, prepared.scoring).items():
            _check_reference(case, reference, candidate.references, ensemble, candidate.name)
        pairs |= {pair.case: pair for pair in predict_held_out(prepared, folder, keep=("probabilities",))}
        scoring, decision = prepared.scoring, Decision.of(prepared.predictor.plan)
        del prepared  # with its network
    return pairs, scoring, decision


def _check_reference(case: str, reference: Path, scored: Mapping[str, str], ensemble: Ensemble, candidate: str) -> None:
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


def _mean(one: Pair, other: Pair, decision: Decision, place: Path) -> Pair:
    """Write the label map of the mean of two probabilities."""
    _, geometry = read_label(one.prediction)
    label, _ = average([_load(pair) for pair in (one, other)], decision)
    write_label(label, place / one.prediction.name, geometry)
    return replace(one, prediction=place / one.prediction.name)


def _load(pair: Pair) -> np.ndarray:
    path = pair.prediction.with_name(f"{pair.case}.npz")
    try:
        with np.load(path) as content:
            return content["probabilities"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged, or holds no probabilities ({error}). Remove it and give the same command again."
        ) from error


def _choose(candidates: Sequence[Candidate], output: Path) -> Path:
    means = {candidate.name: candidate.mean for candidate in candidates}
    if all(np.isnan(mean) for mean in means.values()):
        raise ValueError("No candidate has a score: neither references nor predictions hold a class.")
    best = max(candidates, key=lambda one: -np.inf if np.isnan(one.mean) else one.mean)
    table = pd.concat([one.scores.assign(run=one.name) for one in candidates], ignore_index=True)
    unlike = note_on_scores({one.name: one.scores for one in candidates})
    remark = " ".join(filter(None, [REMARK, grow_remark(best.grow), unlike]))
    text = write_tables(table, output / "tables", remark=remark)
    show_table(text.groupby("run", sort=False).tail(1), f"{describe(table)} {remark}")
    first = best.ensembles[0]
    rules = best.rules()
    metric = metrics_of(table)[0]
    facts = {
        "dataset": first.content["dataset"],
        "chosen": best.name,
        "metric": f"mean_{metric}",
        "candidates": [
            {"name": one.name, f"mean_{metric}": None if np.isnan(one.mean) else one.mean,
             "folders": [str(ensemble.path.parent.resolve()) for ensemble in one.ensembles]}
            for one in candidates
        ],
        "predict": predict_command(output / FILE, mirror=first.mirror),
    }  # fmt: skip
    groups = [group for ensemble in best.ensembles for group in ensemble.groups]
    cases = list(best.scores["case"].unique())
    write_ensemble(output / FILE, groups, rules, mirror=first.mirror, fitted_on=cases, facts=facts)
    log.info("Best: %s, mean %s %.4f, %d rule(s). Predict with: %s", best.name, metric.upper(), best.mean, len(rules),
             facts["predict"])  # fmt: skip
    return output / FILE
