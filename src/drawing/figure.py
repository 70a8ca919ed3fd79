"""What every figure needs: to be written whole, and names drawn as they are."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from umamba.files import atomic_file

FIGURE_DPI = 150
_LONGEST_NAME = 60  # characters of a name in a figure


def save_figure(figure: Figure, path: Path | str, dpi: int = FIGURE_DPI) -> None:
    """Write a figure whole or not at all."""
    with atomic_file(path) as beside:
        figure.savefig(beside, dpi=dpi)


def literal(name: str) -> str:
    """A name as matplotlib draws it unchanged: no formula between dollars, in the legend even with a leading _."""
    name = " ".join(name.split())
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 4 :]}"
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")
