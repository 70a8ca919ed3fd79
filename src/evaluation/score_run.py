"""The last stage of a run: predict the test cases, score them, and leave tables and pictures in a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.overlays import overlay_figure
from umamba.evaluation.pairs import Pair, pair_cases
from umamba.evaluation.postprocessing import POSTPROCESSED, POSTPROCESSED_RUN, postprocess_pairs
from umamba.evaluation.prepared import Prepared, RunOptions, prepare
from umamba.evaluation.record import Contents, dataset_name, run_record, save_record
from umamba.evaluation.run_cost import run_cost
from umamba.evaluation.scoring import Labelling
from umamba.evaluation.table_text import show_table
from umamba.evaluation.tables import RECORD, case_means, describe, metrics_of, write_source_tables, write_tables
from umamba.evaluation.wandb_table import log_predictions
from umamba.files import read_json, writing_into
from umamba.inference.claim import claimed

log = logging.getLogger(__name__)

REMARKS = {
    "test": "",
    "validation": "Validation cases of the training's own fold.",
    "training": "The network was trained on these cases: no measure of new ones.",
}


def predict_and_score(
    checkpoints: Sequence[Path | str],
    datamodule: SegmentationDataModule,
    folder: Path,
    loggers: Sequence[Logger] = (),
    options: RunOptions | None = None,
) -> tuple[pd.DataFrame, list[Pair]]:
    """Predict and score a data module's test cases.

    Args:
        checkpoints: One, or several whose logits are averaged.
        datamodule: With its raw data open; gives cases, task, NSD tolerance and growth.
        folder: Gets predictions/, tables/ (with run.json, written last) and figures/overlays.png.
        loggers: Of Lightning; W&B gets the means and the table with overlays.
        options: None for those of a plain test.

    Returns:
        One row per case and class, see `evaluate`; and the pairs of files.

    Raises:
        ValueError, FileNotFoundError, ImportError: See `prepare`, which refuses before a case is predicted; `evaluate`.
        PredictionInUseError: Another call predicts or scores there, see `claimed`.
        CasesFailedError: Cases could not be predicted; the others were, but nothing was scored.
    """
    options = options or RunOptions()
    prepared = prepare(checkpoints, datamodule, folder, options)
    dataset, run_dir = dataset_name(prepared.members[0], datamodule.dataset_dir), Path(checkpoints[0]).parent.parent
    predictions = folder / "predictions"
    predictions.mkdir(parents=True, exist_ok=True)
    with writing_into(folder), claimed(predictions, "scores", prepared.predictor.made_by()):  # until they are scored
        return _predict_and_score(prepared, dataset, run_dir, folder, loggers, options)


def _predict_and_score(
    prepared: Prepared, dataset: str, run_dir: Path, folder: Path, loggers: Sequence[Logger], options: RunOptions
) -> tuple[pd.DataFrame, list[Pair]]:
    predictor, scoring, rules = prepared.predictor, prepared.scoring, prepared.rules
    (folder / "tables" / RECORD).unlink(missing_ok=True)  # it names label maps that are replaced now
    predictor.predict_cases(prepared.chosen, folder / "predictions")
    pairs = pair_cases(prepared.chosen, folder / "predictions", scoring)
    scores = evaluate(pairs, scoring, workers=options.workers)
    if rules is not None:
        processed = postprocess_pairs(pairs, rules, folder / POSTPROCESSED)
        after = evaluate(processed, scoring, workers=options.workers)
        scores = pd.concat([scores.assign(run="plain"), after.assign(run=POSTPROCESSED_RUN)])
    remark = f"{REMARKS[prepared.scored]} {scoring.remark}".strip()
    text = write_tables(scores, folder / "tables", parquet=options.parquet, remark=remark)
    show_table(text, f"{describe(scores)} {remark}".strip())
    write_source_tables(scores, pairs, folder / "tables")
    if rules is None:
        overlay_figure({"prediction": pairs}, scores, {"prediction": scoring}, folder / "figures" / "overlays.png")
    log_scores(loggers, scores, pairs, scoring)
    inference = folder / "predictions" / "inference.json"
    record = run_record(
        prepared.members,
        dataset=dataset,
        scored=prepared.scored,
        protocol=scores["protocol"].iloc[0],
        labelling=scoring,
        options={
            "cases": options.cases,
            "mirror": options.mirror,
            "grow": scoring.grow,
            "postprocessing": rules is not None,
            "rules": None if rules is None else [list(rule.classes) for rule in rules],
        },
        cost=run_cost(predictor.networks, predictor.input_shape, run_dir, inference),
        pairs=pairs,
        contents=Contents(checkpoints=prepared.contents, images=read_json(inference)["images"]),
    )
    save_record(record, folder / "tables")  # last: a test that it tells of has come to its end
    return scores, pairs


def log_scores(loggers: Sequence[Logger], scores: pd.DataFrame, pairs: Sequence[Pair], labelling: Labelling) -> None:
    """Send the means to W&B and TensorBoard, and the table with overlays to W&B.

    An unreachable server costs a warning, for all is on disk. TensorBoard lists runs by the first metric (hp_metric).
    """
    means = case_means(scores).mean(numeric_only=True)
    metrics = metrics_of(scores)
    summary = {f"test/{metric}": float(means[metric]) for metric in metrics}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics(summary | {"hp_metric": float(means[metrics[0]])})
            logger.save()
        if not isinstance(logger, WandbLogger):
            continue
        try:
            logger.log_metrics(summary)
            log_predictions(logger.experiment, scores, pairs, labelling)
        except Exception as error:  # wandb's own kinds, network, disk: none of them may lose a finished run
            log.warning("W&B did not take the test scores (%s); they are in the run's folder.", error)
