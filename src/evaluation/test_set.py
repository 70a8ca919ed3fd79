"""The last stage of a run: predict the test cases, score them, and leave tables and pictures in a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import Logger, WandbLogger
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from src.datamodules.base import SegmentationDataModule
from src.evaluation.evaluate import check_protocol, evaluate
from src.evaluation.figures import overlay_figure
from src.evaluation.pairs import Pair, pair_cases
from src.evaluation.postprocessing import load_rules, postprocess_pairs
from src.evaluation.record import run_cost, run_record, save_record
from src.evaluation.tables import case_means, describe, metrics_of, write_tables
from src.evaluation.wandb_table import log_predictions
from src.inference.predictor import Predictor
from src.planning.raw import RawCase

log = logging.getLogger(__name__)


def predict_and_score(
    checkpoints: Sequence[Path | str],
    datamodule: SegmentationDataModule,
    folder: Path,
    loggers: Sequence[Logger] = (),
    *,
    cases: str = "test",
    protocol: str = "standard",
    mirror: bool = False,
    postprocessing: Path | str | None = None,
    grow: bool = False,
    device: str = "auto",
    workers: int | None = None,
    parquet: bool = False,
    trusted: str | Sequence[str] = (),
) -> tuple[pd.DataFrame, list[Pair]]:
    """Predict and score a data module's test cases.

    Args:
        checkpoints: One, or several whose logits are averaged.
        datamodule: With its raw data open; gives cases, task and NSD tolerance.
        folder: Gets predictions/, tables/ (with run.json) and figures/overlays.png.
        loggers: Of Lightning; W&B gets the means and the table with overlays.
        cases: "test", or "validation" for the validation cases of the data module's fold.
        protocol, grow, workers: See `evaluate`.
        mirror, device, trusted: See `Predictor.from_checkpoint`.
        postprocessing: File of rules; the scores then hold both, apart by "run": "plain" and "post-processed".
        parquet: See `write_tables`.

    Returns:
        One row per case and class, see `evaluate`; and the pairs of files.

    Raises:
        ValueError, FileNotFoundError: See `check_protocol`, `Predictor` and `evaluate`.
        CasesFailedError: Cases could not be predicted; the others were, but nothing was scored.
    """
    predictor = Predictor.from_checkpoint(checkpoints, device=device, mirror=mirror, trusted=trusted)
    plan, task = predictor.plan, datamodule.task
    check_protocol(protocol, plan.labels, task, plan.file_ending)
    chosen = _choose(datamodule, cases)
    predictor.predict_cases(chosen, folder / "predictions")
    pairs = pair_cases(chosen, folder / "predictions", plan.file_ending, task)

    def score(some: Sequence[Pair]) -> pd.DataFrame:
        tolerance = datamodule.nsd_tolerance
        options = {"ignore_label": plan.ignore_label, "protocol": protocol, "grow": grow, "workers": workers}
        return evaluate(some, plan.labels, task=task, tolerance=tolerance, **options)

    scores = score(pairs)
    if postprocessing is not None:
        processed = postprocess_pairs(pairs, load_rules(postprocessing, plan.labels), folder / "postprocessed")
        scores = pd.concat([scores.assign(run="plain"), score(processed).assign(run="post-processed")])
    text = write_tables(scores, folder / "tables", parquet=parquet)
    shape = (1, len(plan.channel_names), *predictor.patch_size)
    record = run_record(
        predictor.config,
        predictor.configuration.name,
        checkpoints,
        protocol=scores["protocol"].iloc[0],
        task=task,
        labels=plan.labels,
        options={"cases": cases, "mirror": mirror, "grow": grow, "postprocessing": postprocessing is not None},
        cost=run_cost(
            predictor.networks, shape, Path(checkpoints[0]).parent.parent, folder / "predictions" / "inference.json"
        ),
        pairs=pairs,
    )
    save_record(record, folder / "tables")
    show_table(text, describe(scores))
    if postprocessing is None:
        path = folder / "figures" / "overlays.png"
        overlay_figure({"prediction": pairs}, scores, plan.labels, path, task=task, grow=grow)
    log_scores(loggers, scores, pairs, plan.labels, task=task, grow=grow)
    return scores, pairs


def log_scores(
    loggers: Sequence[Logger],
    scores: pd.DataFrame,
    pairs: Sequence[Pair],
    labels: dict[str, int],
    *,
    task: str,
    grow: bool,
) -> None:
    """Send the means and the table with overlays to W&B; an unreachable server costs a warning, for all is on disk."""
    means = case_means(scores).mean(numeric_only=True)
    summary = {f"test/{metric}": float(means[metric]) for metric in metrics_of(scores)}
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        try:
            logger.log_metrics(summary)
            log_predictions(logger.experiment, scores, pairs, labels, task=task, grow=grow)
        except Exception as error:  # wandb's own kinds, network, disk: none of them may lose a finished run
            log.warning("W&B did not take the test scores (%s); they are in the run's folder.", error)


def show_table(text: pd.DataFrame, caption: str) -> None:
    """Print a table of text on the console, the SD under the mean so that 80 columns are enough."""
    table = Table(*map(str, text.columns), caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    for row in text.astype(str).itertuples(index=False):
        table.add_row(*(cell.replace(" ± ", "\n± ") for cell in row))
    Console().print(table)


def _choose(datamodule: SegmentationDataModule, cases: str) -> Sequence[RawCase]:
    if cases == "test":
        return datamodule.test_cases
    if cases == "validation":
        return [case for case in datamodule.raw.training_cases if case.identifier in set(datamodule.val_ids)]
    raise ValueError(f"cases must be test or validation, it is {cases!r}.")
