"""progress.png: what is in metrics.csv is drawn, by its epoch and in its class's colour, in little time."""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from skimage import io as skio

from umamba.drawing import history
from umamba.drawing.history import history_figure
from umamba.drawing.palette import PALETTE

CLASSES = {1: "liver", 2: "_$x$", 3: "spleen"}


def log(folder: Path, epochs: int = 3, classes=CLASSES) -> Path:
    """A metrics.csv as Lightning's callbacks and the module write it: validation in every second epoch."""
    rows: list[dict] = []
    for epoch in range(epochs):
        end = {"epoch": epoch, "step": 10 * epoch + 9}
        rows.append({"step": 10 * epoch, "lr-SGD": 0.1 / (epoch + 1)})
        if epoch % 2 == 1:
            scores = {f"val/dice_{name}": 0.1 * number for number, name in enumerate(classes.values())}
            rows.append(end | {"val/loss": 1.0, "val/dice": 0.5, "val/dice_ema": 0.4} | scores)
        rows.append(end | {"train/loss": 2.0 - epoch, "cost/epoch_seconds": 30.0})
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    return folder / "metrics.csv"


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    figures: list[Figure] = []
    write = history.save_figure
    monkeypatch.setattr(history, "save_figure", lambda figure, *rest, **options: (
        figures.append(figure), write(figure, *rest, **options)
    ))  # fmt: skip
    return figures


def curve(figure: Figure, label: str, panel: int) -> np.ndarray:
    (line,) = [line for line in figure.axes[panel].lines if line.get_label().strip("\u200b") == label]
    return line.get_xydata()


@pytest.mark.parametrize(("classes", "background"), [({1: "a", 3: "b"}, "#ffffff"), ({1: "a", 4: "pale"}, "#d4d4d4")])
def test_pale_classes_are_drawn_on_grey(tmp_path: Path, drawn, classes, background) -> None:
    history_figure(log(tmp_path, classes=classes), tmp_path / "progress.png", classes)
    assert matplotlib.colors.to_hex(drawn[0].axes[1].get_facecolor()) == background


def test_a_run_without_a_validation_says_so(tmp_path: Path, drawn) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,train/loss\n0,1.0\n")
    history_figure(tmp_path / "metrics.csv", tmp_path / "progress.png", {1: "a", 4: "pale"})
    scores = drawn[0].axes[1]
    assert [text.get_text() for text in scores.texts] == ["no validation yet"]
    assert matplotlib.colors.to_hex(scores.get_facecolor()) == "#ffffff"


def test_each_column_is_drawn_at_its_epoch(tmp_path: Path, drawn) -> None:
    history_figure(log(tmp_path), tmp_path / "progress.png", CLASSES, "run")
    (figure,) = drawn
    assert curve(figure, "training", 0).tolist() == [[1, 2.0], [2, 1.0], [3, 0.0]]
    assert curve(figure, "validation", 0).tolist() == [[2, 1.0]]
    assert curve(figure, "spleen", 1).tolist() == [[2, 0.2]]
    assert [tuple(point) for point in figure.axes[2].lines[0].get_xydata()] == [(1, 0.1), (2, 0.05), (3, 0.1 / 3)]
    assert figure.axes[3].lines[0].get_ydata().tolist() == [30.0] * 3
    assert figure._suptitle.get_text() == "run, epoch 3, best smoothed pseudo Dice 0.400 after epoch 2"
    assert skio.imread(tmp_path / "progress.png").shape[1] == 1100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "progress.png"]


def test_classes_have_the_colours_of_the_overlays(tmp_path: Path, drawn) -> None:
    history_figure(log(tmp_path), tmp_path / "progress.png", CLASSES)
    colours = [matplotlib.colors.to_hex(line.get_color()).upper() for line in drawn[0].axes[1].lines[:3]]
    assert colours == list(PALETTE[:3])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_has_just_begun(tmp_path: Path, epochs: int) -> None:
    history_figure(log(tmp_path, epochs), tmp_path / "progress.png", CLASSES)
    assert (tmp_path / "progress.png").is_file()


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="logger=csv"):
        history_figure(tmp_path / "metrics.csv", tmp_path / "progress.png", CLASSES)
    pd.DataFrame({"step": [0], "lr-SGD": [0.1]}).to_csv(tmp_path / "metrics.csv", index=False)
    with pytest.raises(ValueError, match="holds no epoch yet"):
        history_figure(tmp_path / "metrics.csv", tmp_path / "progress.png", CLASSES)


def test_a_thousand_epochs_of_many_classes_take_little_time(tmp_path: Path) -> None:
    classes = {value: f"organ_{value}" for value in range(1, 31)}
    metrics_csv = log(tmp_path, 1000, classes)
    history_figure(metrics_csv, tmp_path / "progress.png", classes)  # fonts are found
    before = time.process_time()
    history_figure(metrics_csv, tmp_path / "progress.png", classes)
    assert time.process_time() - before < 2.0  # on a core shared by many; alone it is a third of a second


@pytest.mark.parametrize(("ends", "low"), [([0.1, 0.2], True), ([0.1, 0.8, None], False), ([], False)])
def test_the_legend_covers_no_smoothed_curve(ends: list[float | None], low: bool) -> None:
    assert history._is_low(pd.DataFrame({"val/dice_ema": pd.Series(ends, dtype=float)})) is low
    assert history._is_low(pd.DataFrame({"epoch": [1]})) is False
