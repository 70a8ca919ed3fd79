"""The last stage of a run: predict the test cases, score them, and leave tables and pictures in a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import Logger, WandbLogger
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.evaluate import check_instance_options, check_protocol, evaluate, tolerances_of
from umamba.evaluation.figures import overlay_figure
from umamba.evaluation.held_out import choose_cases
from umamba.evaluation.members import Member
from umamba.evaluation.pairs import Pair, pair_cases, references_of
from umamba.evaluation.postprocessing import (
    POSTPROCESSED,
    POSTPROCESSED_RUN,
    Rule,
    load_rules,
    postprocess_pairs,
    refuse_fitted,
)
from umamba.evaluation.record import dataset_name, digest_of, run_cost, run_record, save_record
from umamba.evaluation.tables import RECORD, case_means, check_parquet, describe, metrics_of, write_tables
from umamba.evaluation.wandb_table import log_predictions
from umamba.inference.predictor import Predictor
from umamba.raw.dataset import RawCase

log = logging.getLogger(__name__)

REMARKS = {
    "test": "",
    "validation": "Validation cases of the training's own fold.",
    "training": "The network was trained on these cases: no measure of new ones.",
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is to be predicted and scored, after all that can be refused before has been looked at.

    Attributes:
        predictor: With the checkpoints' networks.
        members: The checkpoints.
        contents: `digest_of` each of them.
        chosen: The cases.
        scored: What they are, see `choose_cases`.
        rules: Of post-processing; None for none.
    """

    predictor: Predictor
    members: list[Member]
    contents: list[str]
    chosen: list[RawCase]
    scored: str
    rules: list[Rule] | None


def prepare(
    checkpoints: Sequence[Path | str],
    datamodule: SegmentationDataModule,
    folder: Path,
    *,
    cases: str = "test",
    protocol: str = "standard",
    mirror: bool = False,
    postprocessing: Path | str | None = None,
    grow: bool = False,
    device: str = "auto",
    parquet: bool = False,
    trusted: str | Sequence[str] = (),
) -> Prepared:
    """Load checkpoints and choose cases; arguments as of `predict_and_score`. Nothing is written.

    Raises:
        ValueError, FileNotFoundError, ImportError: See `Predictor`, `choose_cases`, `load_rules`, `refuse_fitted`,
            `check_protocol`, `tolerances_of`, `references_of` and `check_parquet`.
    """
    paths = [Path(path) for path in checkpoints]
    contents = [digest_of(path) if path.is_file() else "" for path in paths]
    predictor = Predictor.from_checkpoint(checkpoints, device=device, mirror=mirror, trusted=trusted)
    plan, task = predictor.plan, datamodule.task
    members = [Member.read(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if digest_of(path) != content:
            raise ValueError(f"{path} was replaced while it was read: its training goes on. Score a copy of it.")
    chosen, scored = choose_cases(members, datamodule, cases)
    rules = None
    if postprocessing is not None:
        if task == "instances":
            raise ValueError("postprocessing=... keeps the largest component of a class, which no instances survive.")
        rules = load_rules(postprocessing, plan.labels)
        if scored != "test":
            refuse_fitted(postprocessing, [case.identifier for case in chosen])
    check_instance_options(task, grow=grow)
    check_protocol(protocol, plan.labels, task, plan.file_ending)
    if (task, protocol) == ("semantic", "standard"):
        tolerances_of(datamodule.nsd_tolerance, [name for name, value in plan.labels.items() if value != 0])
    check_parquet(parquet)
    references_of(chosen, plan.file_ending, task)
    predictor.outputs(chosen, folder / "predictions")
    return Prepared(predictor=predictor, members=members, contents=contents, chosen=chosen, scored=scored, rules=rules)


def predict_and_score(
    checkpoints: Sequence[Path | str],
    datamodule: SegmentationDataModule,
    folder: Path,
    loggers: Sequence[Logger] = (),
    *,
    workers: int | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, list[Pair]]:
    """Predict and score a data module's test cases.

    Args:
        checkpoints: One, or several whose logits are averaged.
        datamodule: With its raw data open; gives cases, task and NSD tolerance.
        folder: Gets predictions/, tables/ (with run.json, written last) and figures/overlays.png.
        loggers: Of Lightning; W&B gets the means and the table with overlays.
        workers: See `evaluate`.
        **options: Of `prepare`:
            cases: "test", or "validation" for the cases that the checkpoints were validated with, see `choose_cases`.
            protocol, grow: See `evaluate`.
            mirror, device, trusted: See `Predictor.from_checkpoint`.
            postprocessing: File of rules; the scores then hold both, apart by "run": "plain" and "post-processed".
            parquet: See `write_tables`.

    Returns:
        One row per case and class, see `evaluate`; and the pairs of files.

    Raises:
        ValueError, FileNotFoundError, ImportError: See `prepare`, which refuses before a case is predicted; `evaluate`.
        CasesFailedError: Cases could not be predicted; the others were, but nothing was scored.
    """
    prepared = prepare(checkpoints, datamodule, folder, **options)
    predictor, plan, task = prepared.predictor, prepared.predictor.plan, datamodule.task
    protocol, grow = options.get("protocol", "standard"), options.get("grow", False)
    (folder / "tables" / RECORD).unlink(missing_ok=True)  # it names label maps that are replaced now
    predictor.predict_cases(prepared.chosen, folder / "predictions")
    pairs = pair_cases(prepared.chosen, folder / "predictions", plan.file_ending, task)

    def score(some: Sequence[Pair]) -> pd.DataFrame:
        tolerance = datamodule.nsd_tolerance
        return evaluate(
            some,
            plan.labels,
            task=task,
            tolerance=tolerance,
            ignore_label=plan.ignore_label,
            protocol=protocol,
            grow=grow,
            workers=workers,
        )

    scores = score(pairs)
    if prepared.rules is not None:
        processed = postprocess_pairs(pairs, prepared.rules, folder / POSTPROCESSED)
        scores = pd.concat([scores.assign(run="plain"), score(processed).assign(run=POSTPROCESSED_RUN)])
    remark = REMARKS[prepared.scored]
    text = write_tables(scores, folder / "tables", parquet=options.get("parquet", False), remark=remark)
    show_table(text, f"{describe(scores)} {remark}".strip())
    if prepared.rules is None:
        path = folder / "figures" / "overlays.png"
        overlay_figure({"prediction": pairs}, scores, plan.labels, path, task=task, grow=grow)
    log_scores(loggers, scores, pairs, plan.labels, task=task, grow=grow)
    inference, run_dir = folder / "predictions" / "inference.json", Path(checkpoints[0]).parent.parent
    shape = (1, len(plan.channel_names), *predictor.patch_size)
    record = run_record(
        prepared.members,
        dataset=dataset_name(prepared.members[0], datamodule.dataset_dir),
        scored=prepared.scored,
        protocol=scores["protocol"].iloc[0],
        task=task,
        labels=plan.labels,
        options={
            "cases": options.get("cases", "test"),
            "mirror": options.get("mirror", False),
            "grow": grow,
            "postprocessing": prepared.rules is not None,
            "rules": None if prepared.rules is None else [list(rule.classes) for rule in prepared.rules],
        },
        cost=run_cost(predictor.networks, shape, run_dir, inference),
        pairs=pairs,
        contents=prepared.contents,
    )
    save_record(record, folder / "tables")  # last: a test that it tells of has come to its end
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
