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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from umamba.cross_validation.candidates import Candidate, check_reference, open_candidates
from umamba.cross_validation.folds import PoolOptions, predict_command, predict_held_out, read_folds
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import Pair, references_of
from umamba.evaluation.prepared import prepare
from umamba.evaluation.same_table import note_on_scores
from umamba.evaluation.scoring import Scoring, grow_remark
from umamba.evaluation.table_text import show_table
from umamba.evaluation.tables import describe, metrics_of, write_tables
from umamba.files import writing_into
from umamba.inference.averaged import average
from umamba.inference.decision import Decision
from umamba.inference.ensemble import FILE, write_ensemble
from umamba.names import file_names
from umamba.raw.readers import read_label, write_label

log = logging.getLogger(__name__)

_WORK = "probabilities"  # in the output folder, until all pairs are scored
REMARK = "Each case predicted by networks that did not see it."


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
    single = open_candidates(folders)
    (output / FILE).unlink(missing_ok=True)
    with writing_into(output):
        candidates = list(single)
        if pairs and len(single) > 1:
            candidates += _means_of_two(single, output, options)
            if not keep:
                shutil.rmtree(output / _WORK)
        return _choose(candidates, output)


def _means_of_two(single: Sequence[Candidate], output: Path, options: PoolOptions) -> list[Candidate]:
    """The mean of the probabilities of each two, case by case."""
    alike = replace(options, mirror=single[0].ensembles[0].mirror, scoring=single[0].scoring)
    stems = file_names([candidate.name for candidate in single])
    scored = [_probabilities(candidate, output / _WORK / stems[candidate.name], alike) for candidate in single]
    found = []
    for (one, made), (other, (others, *_)) in itertools.combinations(zip(single, scored, strict=True), 2):
        pairs, scoring, decision = made
        place = output / "pairs" / f"{stems[one.name]}+{stems[other.name]}"
        with writing_into(place):
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
            check_reference(case, reference, candidate.references, ensemble, candidate.name)
        pairs |= {pair.case: pair for pair in predict_held_out(prepared, folder, keep=("probabilities",))}
        scoring, decision = prepared.scoring, Decision.of(prepared.predictor.plan)
        del prepared  # with its network
    return pairs, scoring, decision


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
