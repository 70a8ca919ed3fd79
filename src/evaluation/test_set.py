"""The last stage of a run: predict the test cases, score them, and leave tables and pictures in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from src.datamodules.base import SegmentationDataModule
from src.evaluation.evaluate import evaluate
from src.evaluation.figures import overlay_figure
from src.evaluation.pairs import pair_cases
from src.evaluation.tables import describe, write_tables
from src.inference.predictor import Predictor


def predict_and_score(
    checkpoints: Sequence[Path | str],
    datamodule: SegmentationDataModule,
    folder: Path,
    *,
    protocol: str = "standard",
    mirror: bool = False,
    device: str = "auto",
) -> pd.DataFrame:
    """Predict and score a data module's test cases.

    Args:
        checkpoints: one, or several whose logits are averaged.
        datamodule: prepared; gives test cases, task and NSD tolerance.
        folder: gets predictions/, tables/ and figures/overlays.png.
        protocol, mirror, device: see `evaluate` and `Predictor`.

    Returns:
        One row per case and class, see `evaluate`.
    """
    predictor = Predictor.from_checkpoint(checkpoints, device=device, mirror=mirror)
    predictor.predict_cases(datamodule.test_cases, folder / "predictions")
    plan = predictor.plan
    pairs = pair_cases(datamodule.test_cases, folder / "predictions", plan.file_ending, datamodule.task)
    scores = evaluate(
        pairs,
        plan.labels,
        task=datamodule.task,
        tolerance=datamodule.nsd_tolerance,
        ignore_label=plan.ignore_label,
        protocol=protocol,
    )
    text = write_tables(scores, folder / "tables")
    show_table(text, describe(scores))
    picture = folder / "figures" / "overlays.png"
    overlay_figure({"prediction": pairs}, scores, plan.labels, picture, task=datamodule.task)
    return scores


def show_table(text: pd.DataFrame, caption: str) -> None:
    """Print a table of text on the console."""
    table = Table(caption=caption)
    for column in text.columns:
        table.add_column(str(column), no_wrap=True)
    for row in text.astype(str).itertuples(index=False):
        table.add_row(*row)
    Console().print(table)
