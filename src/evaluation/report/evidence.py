"""The page of a benchmark: README.md, figure and tables from its records alone, the same byte for byte each time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from umamba.evaluation.csv_cells import to_csv
from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import evidence_tables as numbers
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.comparable import check_comparable
from umamba.evaluation.report.costs import cost_cells
from umamba.evaluation.report.evidence_origin import made
from umamba.evaluation.report.evidence_tables import CNN, CONTROL
from umamba.evaluation.report.left_out import Faults, LeftOutError, check_any
from umamba.evaluation.report.networks import MISSING, all_scores, title_of, unlike_cases, without_scores
from umamba.evaluation.report.power import can_be_significant, doubts_of_ranks, doubts_of_tests
from umamba.evaluation.report.records import find_runs, mixed, name_of, read_runs
from umamba.evaluation.report.runs import of_records
from umamba.evaluation.report.svg import Point, cost_panels
from umamba.evaluation.report.tables import p_text
from umamba.evaluation.table_text import markdown, to_markdown
from umamba.files import write_text
from umamba.words import count

WORDS = "words.md"  # beside the records, written by people: what the numbers support and what they do not
FIGURE = "figures/score_against_cost.svg"
_MAIN_PAIRS = (  # of the main table: network, other, title of the column
    ("umamba_enc", CONTROL, "Enc minus control"),
    ("umamba_bot", CONTROL, "Bot minus control"),
    ("umamba_enc", CNN, "Enc minus CNN"),
    ("umamba_bot", CNN, "Bot minus CNN"),
    ("resenc", CNN, "ResEnc minus CNN"),
)
_MAIN_NOTE = (
    "In points of the score in brackets: mean over cases [95 % bootstrap interval], seeds averaged by case. Enc and "
    "Bot are U-Mamba_Enc and U-Mamba_Bot, the control is the same network without its Mamba layers; CNN and ResEnc are "
    "nnU-Net's. \\* is significant (p < 0.05 by Wilcoxon's test, corrected by Holm); with “no test” there are so few "
    "cases that p cannot fall below 0.05; – has not been trained."
)
_FIGURE_NOTE = (
    "Mean score and its 95 % interval over cases, against cost on a logarithmic axis. Marks that would cover each "
    "other stand side by side."
)
_SCORE_NOTE = (
    "Scores: mean over cases [95 % bootstrap interval], seeds averaged by case. SD of seeds: standard deviation of the "
    "seeds' means. DSC, NSD and F1 are in points of 100; HD95 is in mm (2D pictures: pixels), and lower is better. "
    "(n inf.): n scores of all seeds are infinite, because the class was missed, and are left out of the mean."
)
_DIFFERENCE_NOTE = (
    "Differences: paired over cases, in points [95 % bootstrap interval]. p: two-sided Wilcoxon signed-rank test, "
    "corrected by Holm for all comparisons of the data set; * below 0.05. P(not better): probability that the claim "
    "“better than the other” is false (Claims Reloaded, arXiv 2505.04720)."
)
_COST_NOTE = (
    "Several trainings shared a GPU; the last column says how many. That slows steps and prediction, so compare times, "
    "GPU hours and energy (a run's share of them) only where about as many ran. Parameters, FLOPs (a multiply-add "
    "counts as two) and memory do not depend on it."
)


def make_page(folder: Path, output: Path | None = None) -> Path:
    """Make README.md, figures/ and tables/ of a benchmark.

    Args:
        folder: Of its records, see `umamba.evaluation.report.records`; words.md in it is taken into the page.
        output: Gets what is made; None for the folder itself.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: All are broken or without a score, or the runs of a data set cannot be compared.
        LeftOutError: Some are broken; raised when the page is made, which names them.
    """
    output = output or folder
    broken: Faults = {}
    records = read_runs(find_runs(folder), broken)
    faults = {path: why.replace(f"{folder}{os.sep}", "").rstrip(".") for path, why in broken.items()}
    faults = {str(Path(path).relative_to(folder)): why for path, why in faults.items()} | mixed(records)
    runs = of_records(records, folder)
    check_any(runs, broken)
    if not runs:
        raise FileNotFoundError(f"There is no record of a run below {folder}; umamba.evidence makes them.")
    empty = without_scores(all_scores(runs))
    faults |= {name_of(record): "no case has a score" for record in records if record["dataset"] in empty}
    runs = [run for run in runs if run.dataset not in empty]
    if not runs:
        raise ValueError(f"No case below {folder} has a score: neither references nor predictions hold a class.")
    check_comparable(runs)
    titles = {record["dataset"]: record["title"] for record in records}
    settings = sorted({run.dataset for run in runs}, key=list(titles).index)
    together = all_scores(runs)
    scores = {name: together[together["dataset"] == name].dropna(axis=1, how="all") for name in settings}
    main = {name: numbers.main_metric(scores[name]) for name in settings}
    rows = pd.concat([numbers.score_rows(name, scores[name]) for name in settings], ignore_index=True)
    differences = pd.concat([numbers.difference_rows(name, scores[name]) for name in settings], ignore_index=True)
    costs = numbers.cost_rows(runs)
    for table, name in ((rows, "scores"), (differences, "differences"), (costs, "cost")):
        write_text(to_csv(table, float_format="%.6g"), output / "tables" / f"{name}.csv")
    figure = _figure(rows, costs, main, titles)
    if figure:
        write_text(figure, output / FIGURE)
    valid = [record for record in records if name_of(record) not in faults]
    words = folder / WORDS
    parts = [
        "# Evidence: which network is better, by how much, at what cost",
        f"{count(len(runs), 'training')} on {count(len(main), 'data set')}, {_budgets(valid, titles)}",
        words.read_text(encoding="utf-8").strip() if words.is_file() else "",
        _differences(differences, main, titles),
        _overview(rows, main, titles),
        f"![Score against cost]({FIGURE})\n\n*{_FIGURE_NOTE}*" if figure else "",
        f"## Each data set in full\n\n- {_SCORE_NOTE}\n- {_DIFFERENCE_NOTE}",
        *(_section(titles[name], main[name], rows, differences, scores[name]) for name in settings),
        f"## Cost\n\n{_COST_NOTE}\n\n{to_markdown(_cost_table(costs, titles))}",
        made(valid, faults, titles),
    ]
    page = output / "README.md"
    write_text("\n\n".join(part for part in parts if part) + "\n", page)
    if broken:
        raise LeftOutError(page, broken)
    return page


def _budgets(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Whether the networks of a data set had one budget."""
    steps: dict[str, set[Any]] = {}
    for record in records:
        steps.setdefault(record["dataset"], set()).add(record["cost"]["steps"])
    apart = [markdown(titles[name]) for name, found in steps.items() if len(found) > 1]
    if not apart:
        return "one plan and one short budget for all networks of a data set."
    return (
        "one plan for all networks of a data set. **Some of these were trained for different numbers of steps**: "
        f"{', '.join(apart)}."
    )


def _differences(differences: pd.DataFrame, main: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """The main table: U-Mamba against the control and the CNN on each data set, and how often that is significant."""
    columns = {}
    for network, other, title in _MAIN_PAIRS:
        found = {row["setting"]: row for row in numbers.contrast(differences, network, other, main)}
        if found:
            columns[title] = found
    if not columns:
        return ""
    table = []
    for setting, metric in main.items():
        cells = {title: _difference(found.get(setting)) for title, found in columns.items()}
        if set(cells.values()) != {MISSING}:
            table.append({"data set": f"{titles[setting]} ({METRICS[metric].title})"} | cells)
    counts = {title: _counts(list(found.values())) for title, found in columns.items()}
    table.append({"data set": "significantly better, worse"} | counts)
    return f"## Differences\n\n{to_markdown(pd.DataFrame(table))}\n\n{_MAIN_NOTE}"


def _difference(row: Mapping[str, Any] | None) -> str:
    """A cell of the main table."""
    if row is None:
        return MISSING
    text = _interval(row["difference"], row["low"], row["high"], row["metric"], signed=True)
    if not can_be_significant(row["cases"], row["comparisons"]):
        return f"{text} (no test)"
    return f"{text} *" if row["p_holm"] < statistics.SIGNIFICANT else text


def _counts(found: Sequence[Mapping[str, Any]]) -> str:
    """On how many data sets the first is significantly better and worse, of those on which a test can tell."""
    tested = [row for row in found if can_be_significant(row["cases"], row["comparisons"])]
    sure = [row["difference"] > 0 for row in tested if row["p_holm"] < statistics.SIGNIFICANT]
    return f"{sum(sure)}, {len(sure) - sum(sure)} of {len(tested)}" if tested else "no test"


def _overview(rows: pd.DataFrame, main: Mapping[str, str], titles: Mapping[str, str]) -> str:
    chosen = rows[rows["metric"] == rows["setting"].map(main)]
    networks = numbers.in_order(chosen["network"].unique())
    means = numbers.setting_means(rows, main)
    ranks = statistics.mean_ranks(means) if means.shape[1] > 1 else pd.Series(dtype=float)
    table = []
    for setting in main:
        means_here = chosen[chosen["setting"] == setting].set_index("network")["mean"]
        cells = {title_of(n): f"{100 * means_here[n]:.2f}" if n in means_here else MISSING for n in networks}
        table.append({"data set": titles[setting]} | cells)
    note = "DSC in points (nuclei and other instances: F1), mean over cases and seeds."
    if len(ranks) > 1 and len(means) > 1:
        cells = {title_of(n): f"{ranks[n]:.2f}" if n in ranks else MISSING for n in networks}
        table.append({"data set": "mean rank"} | cells)
        critical = statistics.critical_difference(len(ranks), len(means))
        note += (
            f" Mean ranks are over {len(means)} data sets, of the networks that were trained on all of them; two of "
            f"these differ significantly (Nemenyi, 5 %) if their mean ranks are more than {critical:.2f} apart. "
            f"{doubts_of_ranks(len(ranks), len(means), 'data set')}".rstrip()
            + " Where data sets share cases, as 2D and 3D of one do, this test finds too much."
        )
    return f"## Scores\n\n{to_markdown(pd.DataFrame(table))}\n\n{note}"


def _section(
    title: str, main: str, rows: pd.DataFrame, differences: pd.DataFrame, scores_of_cases: pd.DataFrame
) -> str:
    name = scores_of_cases["dataset"].iloc[0]
    rows, differences = rows[rows["setting"] == name], differences[differences["setting"] == name]
    networks = numbers.in_order(rows["network"].unique())
    scores, compared = [], []
    for network in networks:
        row: dict[str, str] = {"network": title_of(network)}
        for one in rows[rows["network"] == network].to_dict("records"):
            row["runs"], row["cases"] = str(one["runs"]), str(max(int(row.get("cases", 0)), one["cases"]))
            heading = METRICS[one["metric"]].title
            row[heading] = _interval(one["mean"], one["low"], one["high"], one["metric"])
            row[heading] += f" ({one['infinite']} inf.)" if one["infinite"] else ""
            if one["metric"] == main:
                row["SD of seeds"] = _number(one["sd_seeds"], main)
        scores.append(row)
        line = {"network": title_of(network)}
        for other, called in ((CONTROL, "control"), (CNN, "CNN")):
            line |= _against(differences[differences["metric"] == main], network, other, called, main)
        if set(line.values()) - {line["network"], MISSING}:
            compared.append(line)
    parts = [f"### {markdown(title)}", to_markdown(pd.DataFrame(scores))]
    if compared:
        parts += [f"{METRICS[main].title}, difference to the control without Mamba and to nnU-Net's CNN:",
                  to_markdown(pd.DataFrame(compared))]  # fmt: skip
        of_main = differences[differences["metric"] == main]
        parts += doubts_of_tests(int(of_main["cases"].max()), int(of_main["p"].notna().sum()))
    parts += filter(None, [unlike_cases(scores_of_cases)])
    return "\n\n".join(parts)


def _against(table: pd.DataFrame, network: str, other: str, called: str, metric: str) -> dict[str, str]:
    """The cells of a comparison."""
    keys = (f"minus {called}", f"p ({called})", f"P(not better than {called})")
    one = statistics.pair_of(table, network, other)
    if one is None:
        return dict.fromkeys(keys, MISSING)
    star = " *" if one["p_holm"] < statistics.SIGNIFICANT else ""
    difference = _interval(one["difference"], one["low"], one["high"], metric, signed=True)
    cells = (difference, p_text(one["p_holm"]) + star, p_text(one["p_false"]))
    return dict(zip(keys, cells, strict=True))


def _cost_table(costs: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    table = []
    for setting in [name for name in titles if name in set(costs["setting"])]:
        part = costs[costs["setting"] == setting].set_index("network")
        for network in numbers.in_order(part.index):
            cells = cost_cells(part.loc[network], numbers.COSTS)
            table.append({"data set": titles[setting], "network": title_of(network), **cells})
    text = pd.DataFrame(table)
    return text[[c for c in text.columns if (text[c] != MISSING).any()]]


def _figure(rows: pd.DataFrame, costs: pd.DataFrame, main: Mapping[str, str], titles: Mapping[str, str]) -> str | None:
    # Not GPU hours: where trainings share a machine they wait for its CPUs, and all networks cost the same.
    cost, x_title = ("gflops", "GFLOPs per patch") if costs["gflops"].notna().any() else ("gpu_hours", "GPU hours")
    panels: dict[str, list[Point]] = {}
    for setting, metric in main.items():
        paid = costs[costs["setting"] == setting].set_index("network")[cost]
        for one in rows[(rows["setting"] == setting) & (rows["metric"] == metric)].to_dict("records"):
            if paid.get(one["network"], math.nan) > 0:
                low, high = (one[k] if one[k] == one[k] else one["mean"] for k in ("low", "high"))
                panels.setdefault(f"{titles[setting]}: {METRICS[metric].title}", []).append(Point(
                    network=one["network"], cost=paid[one["network"]], score=100 * one["mean"], low=100 * low,
                    high=100 * high))  # fmt: skip
    if not panels:
        return None
    networks = numbers.in_order([point.network for points in panels.values() for point in points])
    return cost_panels(panels, {name: title_of(name) for name in networks}, x_title, "score, points")


def _interval(mean: float, low: float, high: float, metric: str, *, signed: bool = False) -> str:
    if math.isnan(mean):
        return MISSING
    text = _number(mean, metric, signed=signed)
    if math.isnan(low):
        return text
    return f"{text} [{_number(low, metric, signed=signed)}, {_number(high, metric, signed=signed)}]"


def _number(value: float, metric: str, *, signed: bool = False) -> str:
    if math.isnan(value):
        return MISSING
    value = value if METRICS[metric].infinite else 100 * value  # what can be infinite is no share
    return f"{value:+.2f}" if signed else f"{value:.2f}"
