"""Patches in rows: image, reference, prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from umamba.drawing.figure import literal, save_figure
from umamba.drawing.palette import class_colour, paint

_DPI = 110
_SIDE = 2.6  # inches of a panel
_MAX_NAMES = 30


@dataclass(frozen=True, kw_only=True)
class Row:
    """One slice.

    Attributes:
        name: what it is of.
        picture: (Y, X, 3) in [0, 1].
        reference: (Y, X) label map.
        prediction: (Y, X) label map.
        aspect: height of a pixel over its width.
    """

    name: str
    picture: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    aspect: float = 1.0


def rows_figure(rows: Sequence[Row], path: Path, classes: Mapping[int, str], title: str) -> None:
    """Draw image, reference and prediction of each row beside each other, with the classes' colours below."""
    heights = [row.picture.shape[0] * row.aspect / row.picture.shape[1] for row in rows]
    names = [*classes.items()][:_MAX_NAMES]
    below = 0.25 * -(-len(names) // 6) + 0.1
    height = sum(heights) * _SIDE + 0.3 * len(rows) + 0.4 + below
    figure = Figure(figsize=(3 * _SIDE + 0.3, height), dpi=_DPI)
    grid = {"height_ratios": heights}
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw=grid)
    figure.subplots_adjust(
        left=0.04, right=0.99, top=1 - 0.65 / height, bottom=below / height, hspace=0.08, wspace=0.03
    )
    for line, row in zip(axes, rows, strict=True):
        for ax, label in zip(line, (None, row.reference, row.prediction), strict=True):
            ax.imshow(row.picture, aspect=row.aspect, interpolation="nearest")
            if label is not None:
                ax.imshow(paint(label), aspect=row.aspect, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(literal(row.name), fontsize=8)
    for ax, text in zip(axes[0], ("image", "reference", "prediction"), strict=True):
        ax.set_title(text, fontsize=9)
    figure.suptitle(literal(title), fontsize=10, y=1 - 0.15 / height, va="top")
    patches = [Patch(color=class_colour(value), label=literal(name)) for value, name in names]
    figure.legend(handles=patches, loc="lower center", ncols=min(6, len(patches)), fontsize=8, frameon=False)
    save_figure(figure, path, dpi=_DPI)
