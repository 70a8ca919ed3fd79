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

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.evaluate import check_instance_options, check_protocol, evaluate
from umamba.evaluation.figures import overlay_figure
from umamba.evaluation.held_out import choose_cases
from umamba.evaluation.members import Member
from umamba.evaluation.pairs import Pair, pair_cases
from umamba.evaluation.postprocessing import (
    POSTPROCESSED,
    POSTPROCESSED_RUN,
    load_rules,
    postprocess_pairs,
    refuse_fitted,
)
from umamba.evaluation.record import dataset_name, run_cost, run_record, save_record
from umamba.evaluation.tables import RECORD, case_means, describe, metrics_of, write_tables
from umamba.evaluation.wandb_table import log_predictions
from umamba.inference.predictor import Predictor

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
        cases: "test", or "validation" for the cases that the checkpoints were validated with, see `choose_cases`.
        protocol, grow, workers: See `evaluate`.
        mirror, device, trusted: See `Predictor.from_checkpoint`.
        postprocessing: File of rules; the scores then hold both, apart by "run": "plain" and "post-processed".
        parquet: See `write_tables`.

    Returns:
        One row per case and class, see `evaluate`; and the pairs of files.

    Raises:
        ValueError, FileNotFoundError: See `choose_cases`, `check_protocol`, `load_rules`, `Predictor` and `evaluate`.
        CasesFailedError: Cases could not be predicted; the others were, but nothing was scored.
    """
    predictor = Predictor.from_checkpoint(checkpoints, device=device, mirror=mirror, trusted=trusted)
    plan, task = predictor.plan, datamodule.task
    members = [Member.read(path) for path in checkpoints]
    chosen, scored = choose_cases(members, datamodule, cases)
    rules = []
    if postprocessing is not None:
        if task == "instances":
            raise ValueError("postprocessing=... keeps the largest component of a class, which no instances survive.")
        rules = load_rules(postprocessing, plan.labels)
        if scored != "test":
            refuse_fitted(postprocessing, [case.identifier for case in chosen])
    check_instance_options(task, grow=grow)
    check_protocol(protocol, plan.labels, task, plan.file_ending)
    (folder / "tables" / RECORD).unlink(missing_ok=True)  # it names label maps that are replaced now
    predictor.predict_cases(chosen, folder / "predictions")
    pairs = pair_cases(chosen, folder / "predictions", plan.file_ending, task)

    def score(some: Sequence[Pair]) -> pd.DataFrame:
        tolerance = datamodule.nsd_tolerance
        options = {"ignore_label": plan.ignore_label, "protocol": protocol, "grow": grow, "workers": workers}
        return evaluate(some, plan.labels, task=task, tolerance=tolerance, **options)

    scores = score(pairs)
    if postprocessing is not None:
        processed = postprocess_pairs(pairs, rules, folder / POSTPROCESSED)
        scores = pd.concat([scores.assign(run="plain"), score(processed).assign(run=POSTPROCESSED_RUN)])
    text = write_tables(scores, folder / "tables", parquet=parquet, remark=REMARKS[scored])
    shape = (1, len(plan.channel_names), *predictor.patch_size)
    rule_names = [list(rule.classes) for rule in rules] if postprocessing is not None else None
    record = run_record(
        members,
        dataset=dataset_name(members[0], datamodule.dataset_dir),
        scored=scored,
        protocol=scores["protocol"].iloc[0],
        task=task,
        labels=plan.labels,
        options={"cases": cases, "mirror": mirror, "grow": grow, "postprocessing": postprocessing is not None,
                 "rules": rule_names},
        cost=run_cost(
            predictor.networks, shape, Path(checkpoints[0]).parent.parent, folder / "predictions" / "inference.json"
        ),
        pairs=pairs,
    )  # fmt: skip
    save_record(record, folder / "tables")
    show_table(text, f"{describe(scores)} {REMARKS[scored]}".strip())
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
