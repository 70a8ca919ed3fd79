"""Names of networks are as long as what tells their runs apart: figures and tables hold them whole."""

from __future__ import annotations

import itertools
import json

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.evaluation import scored_runs
from umamba.evaluation.record import save_record
from umamba.evaluation.report import figures, page, tables
from umamba.evaluation.report.networks import all_scores
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.significance import compare_networks

LONG = "umamba_bot (max_epochs={}, checkpoint=best), mirrored"


@pytest.fixture
def scores(tmp_path):
    for number in range(5):
        scored_runs.make_run(tmp_path / str(number), network=f"n{number}", gain=0.01 * number)
    found = all_scores(gather([tmp_path]))
    return found.assign(network=found["network"].map(lambda name: LONG.format(name[1:])))


def lies_within(figure):
    """Whether all that is drawn lies within the figure."""
    FigureCanvasAgg(figure).draw()
    drawn, size = figure.get_tightbbox(), figure.get_size_inches()
    return drawn.x0 > -0.02 and drawn.y0 > -0.02 and drawn.x1 < size[0] + 0.02 and drawn.y1 < size[1] + 0.02


def test_figures_hold_long_names(scores):
    compared = compare_networks(figures.paired(scores, "dsc"))
    drawn = {
        "boxes": figures.box_figure(scores, "dsc"),
        "ranks": figures.rank_figure(scores, "dsc"),
        "effects": figures.effect_figure(compared, "dsc", LONG.format(0)),
    }
    assert {name: lies_within(figure) for name, figure in drawn.items()} == dict.fromkeys(drawn, True)


@pytest.mark.parametrize("classes", [{}, {"liver": "surgical_instrument_tip"}])
def test_names_of_classes_below_an_axis_do_not_touch(scores, classes):
    one = scores[scores["network"] == LONG.format(0)]
    figure = figures.box_figure(one.replace({"class": classes}), "dsc")
    FigureCanvasAgg(figure).draw()
    labels = figure.axes[0].get_xticklabels()
    turned = [label.get_rotation() for label in labels]
    ends = [label.get_window_extent() for label in labels]
    assert len(set(turned)) == 1 and (turned[0] > 0 or all(a.x1 < b.x0 for a, b in itertools.pairwise(ends)))
    assert lies_within(figure) and (turned[0] > 0) == bool(classes)


def test_no_line_of_the_ranks_crosses_a_name(scores):
    figure = figures.rank_figure(scores.assign(network=scores["network"].str.slice(0, 24)), "dsc")
    FigureCanvasAgg(figure).draw()
    (ax,) = figure.axes
    stems = [line.get_window_extent() for line in ax.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())]
    assert len(stems) == 5
    names = [text.get_window_extent() for text in ax.texts]
    assert not [1 for name in names for stem in stems if name.x0 < stem.x0 < name.x1 and stem.overlaps(name)]


def test_the_legend_leaves_the_axes_their_height(scores):
    few = figures.box_figure(scores[scores["network"] == LONG.format(0)], "dsc")
    many = figures.box_figure(scores, "dsc")
    heights = []
    for figure in (few, many):
        FigureCanvasAgg(figure).draw()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] > 0.9 * heights[0]


def test_long_cells_wrap_and_numbers_do_not(scores):
    html = page.table(scores[["network", "case"]].head(1))
    assert html.count('<td class="long">') == 1
    assert "<td>case_" in html


def test_print_shows_rows_that_the_filter_hides():
    html = page.page("t", "", [("a", "")])
    printed = html[html.index("@media print") :]
    assert "tr[hidden] { display: table-row; }" in printed
    assert "break-inside: avoid" in printed


def test_older_records_do_not_say_their_epochs(tmp_path):
    folder = scored_runs.make_run(tmp_path / "old")
    record = json.loads((folder / "run.json").read_text())
    for member in record["members"]:
        member.pop("epochs", None)
    save_record(record, folder)
    (row,) = tables.runs_table(gather([tmp_path])).to_dict("records")
    assert row["epochs"] == tables.MISSING
