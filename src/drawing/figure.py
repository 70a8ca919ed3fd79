"""What every figure needs: to be written whole, and names drawn as they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from umamba.files import atomic_file

FIGURE_DPI = 150
_TEXT = "#010203"  # stands for the page's own colour of text until the picture is written
_OF_PAGE: dict[str, Any] = {  # what follows the page, light or dark
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _TEXT),
    **dict.fromkeys(("boxplot.whiskerprops.color", "boxplot.capprops.color", "boxplot.boxprops.color"), _TEXT),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    "boxplot.flierprops.markeredgecolor": _TEXT,
    "boxplot.medianprops.color": _TEXT,
    "legend.edgecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "umamba",
}
_LONGEST_NAME = 60  # characters of a name in a figure


def save_figure(figure: Figure, path: Path | str, dpi: int = FIGURE_DPI) -> None:
    """Write a figure whole or not at all."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # a constrained layout fits at its second pass; at its first titles are cut
    with atomic_file(path) as beside:
        figure.savefig(beside, dpi=dpi)


def page_svg(make: Callable[[], Figure | None]) -> str:
    """A figure as SVG for a page: no background, lines and text in the page's colour, the same for the same figure."""
    with mpl.rc_context(_OF_PAGE):  # type: ignore[arg-type]  # typed by the names of all settings
        figure, text = make(), io.StringIO()
        if figure is None:
            return ""
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_TEXT, "currentColor")


def literal(name: str) -> str:
    """A name as matplotlib draws it unchanged: no formula between dollars, in the legend even with a leading _."""
    name = " ".join(name.split())
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 4 :]}"
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")
