"""The figures of a report: scores by class, ranks with their critical difference, score against cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from umamba.drawing.figure import literal, save_figure
from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.costs import COSTS
from umamba.evaluation.report.networks import network_means, network_scores, order_networks, paired, title_of
from umamba.evaluation.report.tables import class_names

_BOXES_PER_ROW = 42
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255")  # Tol's bright


def colours(networks: list[str]) -> dict[str, str]:
    """A colour for each network, the same in all figures of a data set."""
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(networks)}


def box_figure(scores: pd.DataFrame, metric: str, path: Path) -> None:
    """Box plots over the cases, by class and network; boxes span the quartiles, whiskers 1.5 times their distance.

    Args:
        scores: Of `all_scores`, one data set.
        metric: Column of it.
        path: PNG to write.
    """
    means = network_scores(scores)
    networks, classes = order_networks(means["run"].unique()), class_names(scores)
    per_row = max(1, _BOXES_PER_ROW // len(networks))
    rows = [classes[start : start + per_row] for start in range(0, len(classes), per_row)]
    widest = max(len(row) for row in rows)
    figure = Figure(
        figsize=(max(5, 1 + 0.22 * widest * (len(networks) + 1)), 2.4 * len(rows) + 0.6), layout="constrained"
    )
    axes = figure.subplots(len(rows), 1, squeeze=False, sharey=True)[:, 0]
    for ax, names in zip(axes, rows, strict=True):
        _boxes(ax, means, names, networks, metric)
        ax.set_xlim(-0.5, widest - 0.5)
    figure.legend(*_unique_handles(axes[0]), loc="outside upper center", ncols=min(4, len(networks)), fontsize=8)
    save_figure(figure, path)


def _boxes(ax: Axes, means: pd.DataFrame, classes: list[str], networks: list[str], metric: str) -> None:
    """One row of a `box_figure`."""
    palette, width = colours(networks), 0.8 / len(networks)
    for index, network in enumerate(networks):
        part = means[means["run"] == network]
        values = [part.loc[part["class"] == name, metric].dropna() for name in classes]
        positions = np.arange(len(classes)) + (index - (len(networks) - 1) / 2) * width
        ax.boxplot(
            values, positions=positions, widths=0.85 * width, patch_artist=True, manage_ticks=False,
            boxprops={"facecolor": palette[network], "linewidth": 0.6}, medianprops={"color": "black"},
            flierprops={"markersize": 2}, whiskerprops={"linewidth": 0.6}, capprops={"linewidth": 0.6},
        )  # fmt: skip
        ax.plot([], [], "s", color=palette[network], label=literal(title_of(network)))
    ax.set_xticks(np.arange(len(classes)), [literal(name) for name in classes], fontsize=9)
    ax.set_ylabel(METRICS[metric].title + " (lower is better)" * METRICS[metric].lower_is_better)
    ax.grid(axis="y", alpha=0.3)


def rank_figure(scores: pd.DataFrame, metric: str, path: Path) -> None:
    """Critical-difference plot (Demsar, JMLR 2006): mean ranks; bars join networks that do not differ significantly.

    Args:
        scores: Of `all_scores`, one data set; what some network has no score of does not count.
        metric: Column of it.
        path: PNG to write.

    Raises:
        ValueError: Fewer than two networks, or no case in common.
    """
    table = paired(scores, metric)
    ranks = statistics.mean_ranks(table, lower_is_better=METRICS[metric].lower_is_better)
    cases = len(statistics.in_common(table))
    critical = statistics.critical_difference(len(ranks), cases)
    bars = _insignificant_groups(ranks.to_numpy(), critical)
    top = 0.25 * (len(bars) + 1)  # of the figure's rows, kept for the bars
    figure = Figure(figsize=(7.5, 0.9 + 0.3 * (len(ranks) + top)), layout="constrained")
    ax = figure.subplots()
    for row, (network, rank) in enumerate(ranks.items()):
        ax.plot([rank, rank], [-top - 0.5, row], color="grey", linewidth=0.7, zorder=1)
        ax.plot(rank, row, "o", color="black", markersize=4)
        background = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        label = f"{literal(title_of(network))}  {rank:.2f}"
        ax.annotate(label, (rank, row), (7, 0), textcoords="offset points", va="center", fontsize=9, bbox=background)
    for index, (low, high) in enumerate(bars):
        height = -top - 0.25 + 0.25 * (index + 0.5)
        ax.plot([low - 0.02, high + 0.02], [height, height], color="#cc3311", linewidth=3, solid_capstyle="butt")
    ax.set_xlim(0.9, len(ranks) + 0.45 * len(ranks))
    ax.set_xticks(range(1, len(ranks) + 1))
    ax.set_ylim(len(ranks) - 0.4, -top - 0.5)
    ax.set_xlabel(f"mean rank over {cases} cases (1 is best); critical difference {critical:.2f}", fontsize=9)
    ax.xaxis.set_label_position("top")
    ax.xaxis.tick_top()
    ax.set_yticks([])
    ax.spines[["left", "right", "bottom"]].set_visible(False)
    save_figure(figure, path)


def cost_figure(scores: pd.DataFrame, costs: pd.DataFrame, metric: str, path: Path) -> bool:
    """Mean score against parameters, FLOPs, memory and times, as far as they were measured.

    Args:
        scores: Of `all_scores`, one data set.
        costs: Of `cost_table`.
        metric: Score on the vertical axis.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    means = network_means(scores)[metric]
    networks = [name for name in means.index if name in costs.index]
    known = [key for key in COSTS if costs.loc[networks, key].notna().any()]
    if not known:
        return False
    palette = colours(order_networks(list(means.index)))
    figure = Figure(figsize=(2.4 * len(known) + 0.6, 3.1), layout="constrained")
    axes = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for ax, key in zip(axes, known, strict=True):
        title, factor, _ = COSTS[key]
        for name in networks:
            ax.plot(costs.loc[name, key] * factor, means[name], "o", color=palette[name], label=literal(title_of(name)))
        ax.set_xlabel(title, fontsize=9)
        ax.set_xlim(0, 1.15 * costs.loc[networks, key].max() * factor)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(METRICS[metric].title)
    figure.legend(*_unique_handles(axes[0]), loc="outside upper center", ncols=min(4, len(networks)), fontsize=8)
    save_figure(figure, path)
    return True


def _insignificant_groups(ranks: np.ndarray, critical: float) -> list[tuple[float, float]]:
    """Maximal ranges of sorted ranks that span no more than the critical difference and hold at least two."""
    groups: list[tuple[float, float]] = []
    for low in ranks:
        high = ranks[ranks <= low + critical].max()
        if high > low and (not groups or high > groups[-1][1]):
            groups.append((low, high))
    return groups


def _unique_handles(ax: Axes) -> tuple[list, list[str]]:
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    return list(handles.values()), list(handles)
