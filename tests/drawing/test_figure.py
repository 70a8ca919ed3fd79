"""Figures are written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from umamba.drawing.figure import save_figure


def test_nothing_is_cut_at_the_edge_of_a_constrained_figure(tmp_path: Path) -> None:
    figure = Figure(figsize=(10.4, 6.3), layout="constrained")
    axes = figure.subplots(2, 4)
    for ax in axes.flat:
        ax.imshow(np.zeros((56, 56)), aspect=1.0)
        ax.set(xticks=[], yticks=[])
    for ax in axes[1, :2]:
        ax.axis("off")
    axes[1, 2].set_ylabel("errors")
    axes[0, 3].set_title("one\ntwo\nthree", fontsize=9)
    for ax in axes[1, 2:]:
        ax.set_xlabel("one\ntwo\nthree", fontsize=7)
    figure.legend(handles=[Patch(label=str(n)) for n in range(8)], loc="outside lower center", ncols=5, fontsize=8)
    save_figure(figure, tmp_path / "a.png")
    box = figure.get_tightbbox()  # inches, of all that is drawn
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 10.4 and box.y1 <= 6.3
