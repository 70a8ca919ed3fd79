"""Predictions beside their reference: image, reference, every network's label map, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from umamba.drawing.figure import literal, save_figure
from umamba.drawing.palette import OPACITY, class_colour, paint
from umamba.drawing.slices import View, fullest_slice, picture_of, view_of
from umamba.evaluation.metrics import METRICS
from umamba.evaluation.pairs import Pair
from umamba.evaluation.scoring import Labelling
from umamba.evaluation.tables import case_means, metrics_of
from umamba.raw.readers import read_images, read_label

_TITLE_WIDTH = 34  # characters that fit above a panel
_MAX_PIXELS = 800  # along a side; a panel has about 400
_CLASSES = 6  # whose scores are written below a network, the worst first
_ERRORS = {"missed": "#1E90FF", "too much": "#FF2D20", "another class": "#FFE000"}


def overlay_figure(
    runs: Mapping[str, Sequence[Pair]],
    scores: pd.DataFrame,
    labellings: Mapping[str, Labelling],
    path: Path | str,
    *,
    cases: int | Sequence[str] = 4,
) -> list[str]:
    """Image, reference and each network's prediction for some cases; below it, beside a single one, where it is wrong.

    The slice of a case is the one where most voxels of its worst class are wrong. Over a prediction lies the
    reference's outline. Volumes are turned as radiologists look at them, see `view_of`.

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
    shown = list(cases) if not isinstance(cases, int) else choose_cases(scores, cases)
    by_case = {name: {pair.case: pair for pair in pairs} for name, pairs in runs.items()}
    for case in shown:
        for name, pairs in by_case.items():
            if case not in pairs or not pairs[case].images:
                lacking = "image" if case in pairs else "prediction"
                raise ValueError(f"Cannot draw case {case}: {name} has no {lacking} of it.")
    of_all = next(iter(labellings.values()))
    rows = 1 if len(runs) == 1 else 2  # of a case: the errors of a single network find room beside it
    columns = 4 if rows == 1 else 2 + len(runs)
    figure = Figure(figsize=(2.6 * columns, 2.7 * rows * len(shown) + 0.9), layout="constrained")
    axes = figure.subplots(rows * len(shown), columns, squeeze=False)
    for index, case in enumerate(shown):
        of_case = scores[scores["case"] == case]
        pairs = {name: by_case[name][case] for name in runs}
        above, last = axes[rows * index], axes[rows * (index + 1) - 1]
        _draw_case(above, last[-len(runs) :], case, pairs, of_case, labellings)
        for ax in last[:2] if rows > 1 else ():
            ax.axis("off")
        if rows > 1:
            last[2].set_ylabel("errors", fontsize=9)
    patches = [Patch(color=colour, label=f"wrong: {name}") for name, colour in _ERRORS.items()]
    if of_all.of_instances:
        patches = patches[:2]
    else:
        patches[:0] = [
            Patch(color=class_colour(value), label=literal(name)) for name, value in of_all.foreground.items()
        ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 1 + columns), fontsize=8)
    save_figure(figure, path)
    return shown


def choose_cases(scores: pd.DataFrame, count: int) -> list[str]:
    """Cases by their mean score over all runs: the worst, the best, and others evenly between.

    Those without a score, in which nobody has or finds anything, are chosen where there are no others.
    """
    metric = metrics_of(scores)[0]
    means = case_means(scores).groupby("case")[metric].mean()
    ordered = (means.dropna() if means.notna().any() else means).sort_values()
    picks = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return list(ordered.index[picks])


def worst_class(scores: pd.DataFrame) -> str | None:
    """The class whose mean over the runs is lowest in the scores of one case; None if none has a score."""
    means = scores.groupby("class", sort=False)[metrics_of(scores)[0]].mean().dropna()
    return None if means.empty else str(means.idxmin())


def wrongest_slice(reference: np.ndarray, predictions: Sequence[np.ndarray], value: int | Sequence[int] | None) -> int:
    """The slice with most wrong voxels of a class, or region, in all predictions; without any or one, the fullest."""
    if value is not None:
        inside = np.isin(reference, value)
        wrong = sum(np.count_nonzero(np.isin(one, value) != inside, axis=(1, 2)) for one in predictions)
        if np.any(wrong):
            return int(np.argmax(wrong))
        if inside.any():
            return fullest_slice(inside, ())
    return fullest_slice(reference, predictions)


def _draw_case(
    axes: np.ndarray,
    of_errors: np.ndarray,
    case: str,
    pairs: Mapping[str, Pair],
    scores: pd.DataFrame,
    labellings: Mapping[str, Labelling],
) -> None:
    """Panels of image and label maps, and for each prediction one of its errors with the scores of the classes."""
    first, of_all = next(iter(pairs.values())), next(iter(labellings.values()))
    image, geometry = read_images(first.images)
    reference, _ = read_label(first.reference)
    predictions = {name: read_label(pair.prediction)[0] for name, pair in pairs.items()}
    worst = None if of_all.of_instances else worst_class(scores)
    z = wrongest_slice(reference, list(predictions.values()), of_all.scored.get(worst or ""))
    view = view_of(geometry)
    aspect = view.aspect(geometry.spacing)
    thin = (slice(None, None, max(1, max(image.shape[2:]) // _MAX_PIXELS)),) * 2
    picture = view.turn(picture_of(image[:, z]))[thin]
    truth = view.turn(reference[z])[thin]
    _show(axes[0], picture, aspect, "image", sides=view)
    _show(axes[1], picture, aspect, "reference", _coloured(truth, of_all.of_instances))
    axes[0].set_ylabel(literal(case if len(case) <= 24 else f"{case[:10]}…{case[-10:]}"), fontsize=9)
    about = [f"slice {z + 1} of {len(reference)}"] * (len(reference) > 1)
    if worst is not None and len(of_all.scored) > 1:
        about.append(f"worst class: {literal(worst)}")
    axes[0].set_xlabel("\n".join(about), fontsize=7)
    metric = metrics_of(scores)[0]
    for ax, of_its_errors, (name, prediction) in zip(axes[2:], of_errors, predictions.items(), strict=False):
        of_run = scores[scores["run"] == name] if "run" in scores else scores
        layer = view.turn(labellings[name].as_compared(prediction[z]))[thin]
        title = f"{fill(literal(name), _TITLE_WIDTH)}\n{METRICS[metric].title} {case_means(of_run)[metric].mean():.3f}"
        _show(ax, picture, aspect, title, _coloured(layer, of_all.of_instances))
        _outline(ax, truth, of_all.of_instances)
        _show(of_its_errors, picture, aspect, "errors" * (len(pairs) == 1), _errors(truth, layer, of_all))
        of_its_errors.set_xlabel(_class_scores(of_run, metric), fontsize=7)


def _class_scores(scores: pd.DataFrame, metric: str) -> str:
    """The classes' scores, worst first, two in a line; of a single class the panel's title says it."""
    found = scores[["class", metric]].dropna().sort_values(metric, kind="stable")
    if len(found) < 2:
        return ""
    parts = [f"{literal(name)} {value:.2f}" for name, value in found.head(_CLASSES).itertuples(index=False)]
    parts += [f"and {len(found) - _CLASSES} better"] * (len(found) > _CLASSES)
    return "\n".join(", ".join(parts[start : start + 2]) for start in range(0, len(parts), 2))


def _errors(reference: np.ndarray, prediction: np.ndarray, labelling: Labelling) -> np.ndarray:
    """(Y, X, 4) RGBA, 8 bit: voxels missed, labelled too much, or labelled as another class.

    Values that are no class count for nothing: what references mark as to be ignored. Of instances, whose numbers
    mean nothing, only foreground is compared.
    """
    known = np.array([0, *labelling.values])
    counts = np.ones(reference.shape, bool) if labelling.of_instances else np.isin(reference, known)
    marks = [
        (reference > 0) & (prediction == 0),
        (reference == 0) & (prediction > 0),
        (reference > 0) & (prediction > 0) & (reference != prediction) & (not labelling.of_instances),
    ]
    layer = np.zeros((*reference.shape, 4), np.uint8)
    for mark, colour in zip(marks, _ERRORS.values(), strict=True):
        layer[mark & counts] = (*bytes.fromhex(colour[1:]), 230)
    return layer


def _outline(ax: Axes, label: np.ndarray, instances: bool) -> None:
    """Contours of the reference, in the colours of the classes; of instances in white."""
    for value in np.unique(label[label > 0]):
        colour = "white" if instances else class_colour(int(value))
        padded = np.pad(label == value, 1)  # so that an outline closes at the picture's border
        axis = [np.arange(-1, n + 1) for n in label.shape]
        ax.contour(axis[1], axis[0], padded, levels=[0.5], colors=[colour], linewidths=1.1)
    ax.set(xlim=(-0.5, label.shape[1] - 0.5), ylim=(label.shape[0] - 0.5, -0.5))


def _coloured(label: np.ndarray, instances: bool) -> np.ndarray:
    """(Y, X) label map -> (Y, X, 4) RGBA, 8 bit."""
    if not instances:
        return paint(label)
    values, index = np.unique(label, return_inverse=True)
    # Instances take hues that are far apart for neighbouring numbers (steps of the golden ratio around the circle).
    rgb = colormaps["hsv"](values * 0.618 % 1)[:, :3]
    table = np.concatenate([rgb, np.where(values > 0, OPACITY, 0)[:, None]], axis=1)
    return (255 * table).astype(np.uint8)[index.reshape(label.shape)]


def _show(
    ax: Axes, picture: np.ndarray, aspect: float, title: str, layer: np.ndarray | None = None, sides: View | None = None
) -> None:
    ax.imshow(picture, aspect=aspect, interpolation="nearest")
    if layer is not None:
        ax.imshow(layer, aspect=aspect, interpolation="nearest")
    if sides is not None and sides.sides is not None:
        for letter, (x, y) in zip(sides.sides, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04)), strict=True):
            ax.text(x, y, letter, color="white", fontsize=8, ha="center", va="center", transform=ax.transAxes,
                    bbox={"facecolor": "black", "alpha": 0.5, "edgecolor": "none", "pad": 1})  # fmt: skip
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
