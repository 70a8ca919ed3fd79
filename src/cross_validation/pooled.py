"""What the folds of a cross-validation say together: scores of cases that they did not see, rules, and the ensemble.

Every training case is predicted by the network of the fold that held it out. All these cases are scored as one; the SD
over folds of each mean stands beside. The rules of post-processing are decided on all of them, as nnU-Net does, and the
ensemble of the folds is written down for predict.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from umamba.cross_validation.folds import Fold, PoolOptions, predict_command, predict_held_out, read_folds
from umamba.cross_validation.tables import fold_means, write_fold_tables
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import Pair, references_of
from umamba.evaluation.postprocessing import fit_rules
from umamba.evaluation.prepared import prepare
from umamba.evaluation.record import Contents, dataset_name, is_scored, run_record, save_record
from umamba.evaluation.run_cost import mean_cost, run_cost
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.table_text import show_table
from umamba.evaluation.tables import describe, write_source_tables, write_tables
from umamba.files import read_json, writing_into
from umamba.inference.ensemble import FILE, Ensemble, Group, read_ensemble, write_ensemble
from umamba.inference.record import record_path
from umamba.inference.rules import Rule

log = logging.getLogger(__name__)

SCORED = "out_of_fold"  # in run.json: each case by the network that did not see it
REMARK = "Each case predicted by the network of the fold that held it out."


def predictions_of(folder: Path, fold: int) -> Path:
    """Where the predictions of a fold's held-out cases are kept."""
    return folder / SCORED / f"fold_{fold}"


def pool(checkpoints: Mapping[int, Path], folder: Path, options: PoolOptions) -> Path:
    """Score the held-out cases of all folds as one, decide the rules, and write the ensemble down.

    What is there and still holds is kept: predictions of the same networks, and all of it if nothing has changed.

    Args:
        checkpoints: Fold -> its last checkpoint.
        folder: Gets out_of_fold/, tables/ and, at last, ensemble.json.
        options: How the held-out cases are predicted.

    Raises:
        FileNotFoundError: A checkpoint, or the data set, is missing.
        ValueError: The folds are of other plans, settings, data or splits, see `check_folds`; or cannot be scored.
        CasesFailedError: Cases could not be predicted.
    """
    folds = read_folds(checkpoints, options)
    group = Group.of(folds[0].member.network, [fold.checkpoint for fold in folds])
    scoring = _scoring(folds[0])
    if _is_done(folder, group, folds, scoring, options):
        log.info("%s holds scores and ensemble of these very checkpoints already.", folder)
        return folder / FILE
    (folder / FILE).unlink(missing_ok=True)  # of other checkpoints; written last
    with writing_into(folder):
        return _pool(folds, group, folder, options)


def _scoring(fold: Fold) -> Scoring:
    data = fold.datamodule
    return Scoring.of(data.raw, task=data.task, tolerance=data.nsd_tolerance, grow=data.grow)


def _is_done(folder: Path, group: Group, folds: Sequence[Fold], scoring: Scoring, options: PoolOptions) -> bool:
    """Whether the ensemble and the scores are of these checkpoints and of the references as they are now."""
    try:
        ensemble: Ensemble = read_ensemble(folder / FILE)
    except (OSError, ValueError):
        return False
    if [one.hashes for one in ensemble.groups] != [group.hashes] or ensemble.mirror != options.mirror:
        return False
    cases = {case.identifier: case for case in folds[0].datamodule.raw.training_cases}
    held_out = [cases[name] for fold in folds for name in fold.cases]
    images = {case.identifier: case.images for case in held_out}
    references = references_of(held_out, scoring)
    return is_scored(group.checkpoints, folder / "tables", references, images, scoring)


def _pool(folds: Sequence[Fold], group: Group, folder: Path, options: PoolOptions) -> Path:
    frames, pairs, costs = [], list[Pair](), list[dict[str, Any]]()
    contents, images = list[str](), dict[str, Any]()
    for fold in folds:
        place = predictions_of(folder, fold.number)
        prepared = prepare([fold.checkpoint], fold.datamodule, place, options.of_run())
        made = predict_held_out(prepared, place)
        frames.append(evaluate(made, prepared.scoring, workers=options.workers).assign(fold=fold.number))
        pairs += made
        run_dir = fold.checkpoint.parent.parent
        inference = record_path(place, (0, 1))
        costs.append(run_cost(prepared.predictor.networks, prepared.predictor.input_shape, run_dir, inference))
        contents += prepared.contents
        images |= read_json(inference)["images"]
        scoring, plan = prepared.scoring, prepared.predictor.plan
        del prepared  # with its network
    scores = pd.concat(frames, ignore_index=True)
    rules: list[Rule] = []
    if scoring.task == "semantic":
        rules = fit_rules(pairs, plan.foreground, plan.ignore_label)
    _write_tables(scores, pairs, folder / "tables", scoring.remark)
    first = folds[0]
    record = run_record(
        [fold.member for fold in folds],
        dataset=dataset_name(first.member, first.datamodule.dataset_dir),
        scored=SCORED,
        protocol=scores["protocol"].iloc[0],
        labelling=scoring,
        options={"mirror": options.mirror, "grow": scoring.grow},
        cost=mean_cost(costs),
        pairs=pairs,
        contents=Contents(checkpoints=contents, images=images),
    )
    save_record(record, folder / "tables")
    means, command = fold_means(scores), predict_command(folder, mirror=options.mirror)
    by_fold = [{"fold": fold.number, "cases": fold.cases, **means[fold.number]} for fold in folds]
    facts = {key: record[key] for key in ("network", "configuration", "dataset")}
    facts |= {"folds": by_fold, "pooled": means["pooled"], "predict": command}
    cases = [pair.case for pair in pairs]
    write_ensemble(folder / FILE, [group], rules, mirror=options.mirror, fitted_on=cases, facts=facts)
    log.info(
        "%d rule(s) of post-processing raise the DSC. Predict with %d folds and these: %s", len(rules), len(folds),
        command,
    )  # fmt: skip
    return folder / FILE


def _write_tables(scores: pd.DataFrame, pairs: Sequence[Pair], folder: Path, growth: str) -> None:
    """Scores of all cases, by fold, and by data set where there were several."""
    pooled, remark = scores.drop(columns="fold"), f"{REMARK} {growth}".strip()
    text = write_tables(pooled, folder, remark=remark)
    write_fold_tables(scores, folder, growth)
    show_table(text, f"{describe(scores)} {remark}")
    write_source_tables(pooled, pairs, folder)
