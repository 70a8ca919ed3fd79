"""The losses and scores of a run over its epochs, as a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from umamba.drawing.figure import literal, save_figure

_LOSSES = ("train/loss", "val/loss")  # columns of metrics.csv


def has_losses(metrics_csv: Path) -> bool:
    """Whether there is a metrics.csv with something to draw: a run that ends within its first epoch has none."""
    return metrics_csv.is_file() and not {*_LOSSES}.isdisjoint(pd.read_csv(metrics_csv, nrows=0).columns)


def loss_figure(metrics_csv: Path | str, path: Path | str) -> None:
    """Losses and validation Dice over the epochs of a run.

    Args:
        metrics_csv: Of Lightning's CSVLogger, with the columns epoch, train/loss, val/loss, val/dice as far as there.
        path: PNG or PDF to write.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has none of these columns.
    """
    if not Path(metrics_csv).is_file():
        raise FileNotFoundError(f"{metrics_csv} does not exist. logger=csv writes it into the run's folder.")
    table = pd.read_csv(metrics_csv)
    losses = [name for name in _LOSSES if name in table.columns]
    dices = [name for name in table.columns if name.startswith("val/dice")]
    if "epoch" not in table.columns or not losses + dices:
        raise ValueError(f"{metrics_csv} has the columns {', '.join(table.columns)}; expected epoch and train/loss.")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, names, title in ((left, losses, "loss"), (right, dices, "pseudo Dice")):
        for name in names:
            points = table[["epoch", name]].dropna()
            of_class = name not in (*losses, "val/dice", "val/dice_ema")
            style = {"linewidth": 0.8, "alpha": 0.6} if of_class else {"linewidth": 1.8}
            ax.plot(points["epoch"], points[name], label=literal(name.removeprefix("val/dice_")), marker=".", **style)
        ax.set(xlabel="epoch", ylabel=title)
        ax.grid(alpha=0.3)
        if names:
            ax.legend(fontsize=7, ncols=1 + len(names) // 9)
    save_figure(figure, path)
