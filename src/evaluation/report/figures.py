"""The figures of a report: scores by class, differences, ranks with their critical difference, score against cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from umamba.drawing.figure import literal
from umamba.drawing.palette import network_colour
from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.networks import COSTS, network_means, network_scores, order_networks, paired, title_of
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.report.tables import class_names

_BOXES_PER_ROW = 42
_RANKS_WIDTH = 7.5  # in
_LETTER = 0.075  # in, of a name below an axis


def colours(networks: list[str]) -> dict[str, str]:
    """A colour for each network, the same in all figures of a data set."""
    return {name: network_colour(i) for i, name in enumerate(networks)}


def box_figure(scores: pd.DataFrame, metric: str) -> Figure:
    """Box plots over the cases, by class and network; boxes span the quartiles, whiskers 1.5 times their distance.

    Args:
        scores: Of `all_scores`, one data set.
        metric: Column of it.
    """
    means = network_scores(scores)
    networks, classes = order_networks(means["run"].unique()), class_names(scores)
    per_row = max(1, _BOXES_PER_ROW // len(networks))
    rows = [classes[start : start + per_row] for start in range(0, len(classes), per_row)]
    widest = max(len(row) for row in rows)
    width = max(5, 1 + 0.22 * widest * (len(networks) + 1))
    figure = Figure(figsize=(width, 2.4 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharey=True)[:, 0]
    for ax, names in zip(axes, rows, strict=True):
        _boxes(ax, means, names, networks, metric)
        ax.set_xlim(-0.5, widest - 0.5)
        if _LETTER * max(map(len, names)) > (width - 1) / widest:
            ax.tick_params(axis="x", labelrotation=30)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    _legend(figure, axes[0])
    return figure


def _boxes(ax: Axes, means: pd.DataFrame, classes: list[str], networks: list[str], metric: str) -> None:
    """One row of a `box_figure`."""
    palette, width = colours(networks), 0.8 / len(networks)
    for index, network in enumerate(networks):
        part = means[means["run"] == network]
        values = [part.loc[part["class"] == name, metric].dropna() for name in classes]
        positions = np.arange(len(classes)) + (index - (len(networks) - 1) / 2) * width
        ax.boxplot(
            values, positions=positions, widths=0.85 * width, patch_artist=True, manage_ticks=False,
            medianprops={"linewidth": 1.2, "color": "black"},
            boxprops={"facecolor": palette[network], "linewidth": 0.6},
            flierprops={"markersize": 2}, whiskerprops={"linewidth": 0.6}, capprops={"linewidth": 0.6},
        )  # fmt: skip
        ax.plot([], [], "s", color=palette[network], label=literal(title_of(network)))
    ax.set_xticks(np.arange(len(classes)), [literal(name) for name in classes], fontsize=9)
    ax.set_ylabel(METRICS[metric].title + " (lower is better)" * METRICS[metric].lower_is_better)
    ax.grid(axis="y", alpha=0.3)


def rank_figure(scores: pd.DataFrame, metric: str) -> Figure:
    """Critical-difference plot (Demsar, JMLR 2006): mean ranks; bars join networks that do not differ significantly.

    Args:
        scores: Of `all_scores`, one data set; what some network has no score of does not count.
        metric: Column of it.

    Raises:
        ValueError: Fewer than two networks, or no case in common.
    """
    table = paired(scores, metric)
    ranks = statistics.mean_ranks(table, lower_is_better=METRICS[metric].lower_is_better)
    cases = len(statistics.in_common(table))
    critical = statistics.critical_difference(len(ranks), cases)
    bars = _insignificant_groups(ranks.to_numpy(), critical)
    end = len(ranks) + 0.25 * (len(bars) + 1)  # of the rows: the bars lie between the last name and the axis
    figure = Figure(figsize=(_RANKS_WIDTH, 0.9 + 0.3 * end), layout="constrained")
    ax = figure.subplots()
    # The axis is below: lines go down from their dots and cross no name, for those to the right are of later rows.
    for row, (network, rank) in enumerate(ranks.items()):
        ax.plot([rank, rank], [row, end], color="grey", linewidth=0.7, zorder=1)
        ax.plot(rank, row, "o", color=rcParams["text.color"], markersize=4)
        label = f"{literal(title_of(network))}  {rank:.2f}"
        ax.annotate(label, (rank, row), (7, 0), textcoords="offset points", va="center", fontsize=9)
    for index, (low, high) in enumerate(bars):
        height = len(ranks) - 0.5 + 0.25 * (index + 0.5)
        ax.plot([low - 0.02, high + 0.02], [height, height], color="#cc3311", linewidth=3, solid_capstyle="butt")
    for_names = min(0.7, max(0.3, 0.08 * max(len(title_of(name)) + 6 for name in ranks.index) / _RANKS_WIDTH))
    ax.set_xlim(0.9, (len(ranks) - 0.9 * for_names) / (1 - for_names))
    ax.set_xticks(range(1, len(ranks) + 1))
    ax.set_ylim(end, -0.6)
    ax.set_xlabel(f"mean rank over {cases} cases (1 is best); critical difference {critical:.2f}", fontsize=9)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    return figure


def cost_figure(scores: pd.DataFrame, costs: pd.DataFrame, metric: str) -> Figure | None:
    """Mean score against parameters, FLOPs, memory and times, as far as they were measured.

    Args:
        scores: Of `all_scores`, one data set.
        costs: What each network costs, from `cost_table`.
        metric: Score on the vertical axis.

    Returns:
        None if nothing was measured.
    """
    means = network_means(scores)[metric]
    networks = [name for name in means.index if name in costs.index]
    known = [key for key in COSTS if costs.loc[networks, key].notna().any()]
    if not known:
        return None
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
    _legend(figure, axes[0])
    return figure


def effect_figure(compared: pd.DataFrame, metric: str, reference: str) -> Figure | None:
    """Mean difference of each network to one of them over the cases, with its 95 % bootstrap interval.

    Returns:
        None if no other network has a case in common with it.
    """
    networks = order_networks([*compared["network"], *compared["other"]])
    pairs = [statistics.pair_of(compared, name, reference) for name in networks]
    rows = [row for row in pairs if row is not None and row["cases"]]
    if not rows:
        return None
    palette = colours(networks)
    figure = Figure(figsize=(7.5, 1.0 + 0.34 * len(rows)), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0, color="grey", linewidth=1)
    for height, row in enumerate(rows):
        ends = [row["low"], row["high"]] if np.isfinite(row["low"]) else [row["difference"]] * 2
        ax.plot(ends, [height, height], color=palette[row["network"]], linewidth=2)
        ax.plot(row["difference"], height, "o", color=palette[row["network"]], markersize=7)
    ax.set_yticks(range(len(rows)), [literal(title_of(row["network"])) for row in rows], fontsize=9)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    better = "left" if METRICS[metric].lower_is_better else "right"
    figure.supxlabel(  # of the figure: long names leave little to the axes
        f"{METRICS[metric].title} minus that of {literal(title_of(reference))}\n95 % interval; better is {better}",
        fontsize=9,
    )
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.tick_params(left=False)
    return figure


def learning_figure(runs: Sequence[ScoredRun]) -> Figure | None:
    """Validation Dice over the epochs, a line for each run in its network's colour; None where no run has a log."""
    logs = [(run, log) for run in runs if (log := _log_of(run)) is not None]
    if not logs:
        return None
    palette = colours(order_networks([run.network for run in runs]))
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    ax = figure.subplots()
    for run, log in logs:
        ax.plot(log["epoch"], log["val/dice"], color=palette[run.network], linewidth=1.2,
                label=literal(title_of(run.network)))  # fmt: skip
    ax.set_xlabel("epoch", fontsize=9)
    ax.set_ylabel("pseudo Dice of validation patches", fontsize=9)
    ax.grid(alpha=0.3)
    _legend(figure, ax)
    return figure


def _log_of(run: ScoredRun) -> pd.DataFrame | None:
    """Epochs and validation Dice of the run that train.py left around the scores; None if there are not two."""
    path = run.folder.parent / "metrics.csv"
    if run.processed or not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):  # a log that cannot be read is no reason to be without a report
        return None
    if not {"epoch", "val/dice"} <= set(table.columns):
        return None
    log = table[["epoch", "val/dice"]].apply(pd.to_numeric, errors="coerce").dropna()
    return log if len(log) > 1 else None


def _insignificant_groups(ranks: np.ndarray, critical: float) -> list[tuple[float, float]]:
    """Maximal ranges of sorted ranks that span no more than the critical difference and hold at least two."""
    groups: list[tuple[float, float]] = []
    for low in ranks:
        high = ranks[ranks <= low + critical].max()
        if high > low and (not groups or high > groups[-1][1]):
            groups.append((low, high))
    return groups


def _legend(figure: Figure, ax: Axes) -> None:
    """The networks above a figure, in as many columns as their names leave room for; it grows with their rows."""
    handles, names = _unique_handles(ax)
    columns = max(1, min(4, len(names), int(figure.get_figwidth() / (0.5 + 0.07 * max(map(len, names))))))
    figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(names) // columns) - 1))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, fontsize=8)


def _unique_handles(ax: Axes) -> tuple[list, list[str]]:
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    return list(handles.values()), list(handles)
