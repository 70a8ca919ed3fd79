"""The history of a run, drawn from its metrics.csv: losses, pseudo Dice by class, learning rate, seconds an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from umamba.drawing.figure import literal, save_figure
from umamba.drawing.palette import class_colour

_DPI = 100
_MANY = 10  # classes; the legend of more is small
_LEGEND_TOP = 0.45  # pseudo Dice up to which a legend at the lower right reaches
_MAX_NAMES = 30
_BEHIND = "#D4D4D4"  # pale and dark classes both show on it; without pale ones it is white
_PALE = 0.75  # luma of a class's colour from which it is hard to see on white
_SMOOTHED, _MEAN = "val/dice_ema", "val/dice"


def history_figure(metrics_csv: Path, path: Path, classes: Mapping[int, str], title: str = "", loss: str = "") -> None:
    """Draw the epochs that a run's metrics.csv holds.

    Args:
        metrics_csv: As the CSV logger writes it.
        path: PNG to write, whole or not at all.
        classes: Label value, which gives the colour, -> name of a foreground class.
        title: Above the panels; what the last and the best epoch reached is added.
        loss: What the loss is called.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no epoch.
    """
    if not metrics_csv.is_file():
        raise FileNotFoundError(f"{metrics_csv} does not exist. logger=csv writes it into the run's folder.")
    try:
        table = pd.read_csv(metrics_csv)
    except ValueError as error:
        raise ValueError(f"{metrics_csv} is no table ({error}).") from error
    if "epoch" not in table or table["epoch"].isna().all():
        raise ValueError(f"{metrics_csv} holds no epoch yet; it has the columns {', '.join(table.columns)}.")
    table["epoch"] = table["epoch"].bfill() + 1  # older files have learning rates in front of their epoch
    figure = Figure(figsize=(11, 7), dpi=_DPI)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.9, bottom=0.08, hspace=0.28, wspace=0.16)
    (losses, scores), (rates, seconds) = figure.subplots(2, 2, sharex=True)  # an epoch is at one place in all of them
    _curve(losses, table, "train/loss", color="#0072B2", label="training")
    _curve(losses, table, "val/loss", color="#D55E00", label="validation")
    _dress(losses, f"loss ({loss})" if loss else "loss")
    if losses.lines:
        losses.legend(fontsize=8)
    _draw_scores(scores, table, classes)
    for name in [column for column in table if column.startswith("lr-")]:
        _curve(rates, table, name, color="#444444")
    _dress(rates, "learning rate")
    _curve(seconds, table, "cost/epoch_seconds", color="#444444")
    _dress(seconds, "seconds per epoch, validation included", zero=True)
    figure.suptitle(_title(title, table), fontsize=11)
    save_figure(figure, path, dpi=_DPI)


def _title(title: str, table: pd.DataFrame) -> str:
    """The title with what the last and the best epoch reached."""
    parts = [title[-_MAX_NAMES * 2 :].replace("$", r"\$")] if title else []
    parts.append(f"epoch {table['epoch'].max():.0f}")
    if _SMOOTHED in table and table[_SMOOTHED].notna().any():
        best = table.loc[table[_SMOOTHED].idxmax()]
        parts.append(f"best smoothed pseudo Dice {best[_SMOOTHED]:.3f} after epoch {best['epoch']:.0f}")
    return ", ".join(parts)


def _draw_scores(ax: Axes, table: pd.DataFrame, classes: Mapping[int, str]) -> None:
    for value, name in classes.items():
        _curve(ax, table, f"{_MEAN}_{name}", color=class_colour(value), linewidth=1.0, label=literal(name))
    _curve(ax, table, _MEAN, color="black", linewidth=1.8, label="mean")
    _curve(ax, table, _SMOOTHED, color="black", linewidth=1.2, linestyle="--", label="smoothed")
    _dress(ax, "pseudo Dice of the validation patches")
    ax.set_ylim(-0.02, 1.02)
    if not ax.lines:
        ax.text(0.5, 0.5, "no validation yet", transform=ax.transAxes, ha="center", color="#666666")
    elif any(np.dot(class_colour(value), (0.2126, 0.7152, 0.0722)) > _PALE for value in classes):
        ax.set_facecolor(_BEHIND)
        ax.grid(color="white", alpha=1)
    handles, names = ax.get_legend_handles_labels()
    if handles:
        shown = [*zip(handles, names, strict=True)][-_MAX_NAMES - 2 :]
        many = len(shown) > _MANY
        ax.legend(
            *zip(*shown, strict=True),
            fontsize=6 if many else 8,
            ncols=1 + len(shown) // 9,
            framealpha=0.6,
            loc="upper left" if _is_low(table) else "lower right",
        )  # the best place would take longer to find than all else to draw


def _is_low(table: pd.DataFrame) -> bool:
    """Whether the smoothed curve ends where a legend at the lower right would cover it, as it does at first."""
    smoothed = table[_SMOOTHED].dropna() if _SMOOTHED in table else pd.Series(dtype=float)
    return bool((smoothed.tail(1) < _LEGEND_TOP).any())


def _curve(ax: Axes, table: pd.DataFrame, name: str, **style: object) -> None:
    """Draw a column over the epochs; a single point, which is no line yet, as a dot."""
    if name not in table:
        return
    points = table[["epoch", name]].dropna()
    marker = "." if len(points) < 30 else None
    ax.plot(points["epoch"], points[name], **{"linewidth": 1.4, "marker": marker, **style})  # type: ignore[arg-type]


def _dress(ax: Axes, title: str, *, zero: bool = False) -> None:
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel("epoch", fontsize=9)
    ax.tick_params(labelsize=8, labelbottom=True)
    ax.grid(alpha=0.35)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if zero and ax.lines:
        ax.set_ylim(bottom=0)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
