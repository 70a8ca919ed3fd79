"""Pictures of predictions beside their reference, and of a run's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from umamba.drawing.figure import literal, save_figure
from umamba.drawing.palette import OPACITY, class_colour, paint
from umamba.drawing.slices import fullest_slice, picture_of
from umamba.evaluation.metrics import METRICS
from umamba.evaluation.pairs import Pair
from umamba.evaluation.scoring import Labelling
from umamba.evaluation.tables import case_means, metrics_of
from umamba.raw.readers import read_images, read_label

_MAX_PIXELS = 800  # along a side; a panel has about 400
_LOSSES = ("train/loss", "val/loss")  # columns of metrics.csv


def overlay_figure(
    runs: Mapping[str, Sequence[Pair]],
    scores: pd.DataFrame,
    labellings: Mapping[str, Labelling],
    path: Path | str,
    *,
    cases: int | Sequence[str] = 4,
) -> list[str]:
    """Image, reference and each network's prediction for some cases, in the layout of the paper's figure 2.

    Args:
        runs: Network (or "prediction") -> its pairs, with images.
        scores: Of `evaluate`; with a column "run" whose values are the keys of `runs` if there are several.
        labellings: Network -> what its label maps mean; classes and task are those of all.
        path: PNG or PDF to write.
        cases: How many (from the worst to the best, evenly), or which.

    Returns:
        The cases shown, worst first.

    Raises:
        ValueError: A case is not among the pairs, or has no image.
    """
    metric = metrics_of(scores)[0]
    shown = list(cases) if not isinstance(cases, int) else choose_cases(scores, cases)
    by_case = {name: {pair.case: pair for pair in pairs} for name, pairs in runs.items()}
    for case in shown:
        for name, pairs in by_case.items():
            if case not in pairs or not pairs[case].images:
                lacking = "image" if case in pairs else "prediction"
                raise ValueError(f"Cannot draw case {case}: {name} has no {lacking} of it.")
    of_all = next(iter(labellings.values()))
    figure = Figure(figsize=(2.6 * (2 + len(runs)), 2.6 * len(shown) + 0.9), layout="constrained")
    axes = figure.subplots(len(shown), 2 + len(runs), squeeze=False)
    means = case_means(scores)
    for row, case in zip(axes, shown, strict=True):
        first = next(iter(by_case.values()))[case]
        image, geometry = read_images(first.images)
        reference, _ = read_label(first.reference)
        predictions = [read_label(pairs[case].prediction)[0] for pairs in by_case.values()]
        z = fullest_slice(reference, predictions)
        aspect = geometry.spacing[1] / geometry.spacing[2]
        thin = (slice(None, None, max(1, max(image.shape[2:]) // _MAX_PIXELS)),) * 2
        picture = picture_of(image[:, z])[thin]
        row[0].set_ylabel(literal(case if len(case) <= 24 else f"{case[:10]}…{case[-10:]}"), fontsize=9)
        _show(row[0], picture, None, aspect, "image")
        _show(row[1], picture, _coloured(reference[z][thin], of_all.of_instances), aspect, "reference")
        for ax, (name, _), prediction in zip(row[2:], by_case.items(), predictions, strict=True):
            layer = labellings[name].as_compared(prediction[z])
            here = means[(means["case"] == case) & (means["run"] == name if "run" in means else True)]
            score = f"{literal(name)}\n{METRICS[metric].title} {here[metric].mean():.3f}"
            _show(ax, picture, _coloured(layer[thin], of_all.of_instances), aspect, score)
    if not of_all.of_instances:
        patches = [Patch(color=class_colour(value), label=literal(name)) for name, value in of_all.foreground.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 5), fontsize=8)
    save_figure(figure, path)
    return shown


def choose_cases(scores: pd.DataFrame, count: int) -> list[str]:
    """Cases by their mean score over all runs: the worst, the best, and others evenly between."""
    metric = metrics_of(scores)[0]
    ordered = case_means(scores).groupby("case")[metric].mean().dropna().sort_values()
    picks = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return list(ordered.index[picks])


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


def _coloured(label: np.ndarray, instances: bool) -> np.ndarray:
    """(Y, X) label map -> (Y, X, 4) RGBA, 8 bit."""
    if not instances:
        return paint(label)
    values, index = np.unique(label, return_inverse=True)
    # Instances take hues that are far apart for neighbouring numbers (steps of the golden ratio around the circle).
    rgb = colormaps["hsv"](values * 0.618 % 1)[:, :3]
    table = np.concatenate([rgb, np.where(values > 0, OPACITY, 0)[:, None]], axis=1)
    return (255 * table).astype(np.uint8)[index.reshape(label.shape)]


def _show(ax: Axes, picture: np.ndarray, layer: np.ndarray | None, aspect: float, title: str) -> None:
    ax.imshow(picture, aspect=aspect, interpolation="nearest")
    if layer is not None:
        ax.imshow(layer, aspect=aspect, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
