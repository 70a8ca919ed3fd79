"""The first page of a benchmark, to be read in five minutes: what people say of it, differences, a table a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import evidence_cells as cells
from umamba.evaluation.report import evidence_tables as numbers
from umamba.evaluation.report.evidence_tables import CNN, CONTROL, Numbers
from umamba.evaluation.report.networks import MISSING, cost_cells, title_of
from umamba.evaluation.table_text import markdown, to_markdown
from umamba.words import count

DETAILS = "details.md"
_MAIN_PAIRS = (  # of the main table: network, other, title of the column
    ("umamba_enc", CONTROL, "Enc minus control"),
    ("umamba_bot", CONTROL, "Bot minus control"),
    ("umamba_enc", CNN, "Enc minus CNN"),
    ("umamba_bot", CNN, "Bot minus CNN"),
    ("resenc", CNN, "ResEnc minus CNN"),
)
_COSTS = {key: numbers.COSTS[key] for key in ("gflops", "train_peak_vram_gib")}  # who shared the GPU changes neither
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
_TABLES_NOTE = (
    "Scores are in points of 100, with intervals as above. SD of seeds: standard deviation of the seeds' means. NSD, "
    f"HD95, p values and times: [in detail]({DETAILS}#each-data-set-in-full)."
)


def summary(found: Numbers, records: Sequence[Mapping[str, Any]], left_out: int, words: str, figure: str | None) -> str:
    """The page as Markdown.

    Args:
        found: The numbers.
        records: That count.
        left_out: How many do not.
        words: Written by people: what the numbers support and what they do not.
        figure: Path of score against cost, seen from the page; None where no cost is known.
    """
    trainings = f"{count(found.trainings, 'training')} on {count(len(found.main), 'data set')}"
    without = f" {left_out} more cannot be counted: [why]({DETAILS}#how-it-was-made)." if left_out else ""
    parts = [
        "# Evidence: which network is better, by how much, at what cost",
        f"{trainings}, {_budgets(records, found.titles)}{without} Every score, test and cost: [in detail]({DETAILS}).",
        words,
        _differences(found),
        f"![Score against cost]({figure})\n\n*{_FIGURE_NOTE}*" if figure else "",
        f"## Each data set\n\n{_TABLES_NOTE}",
        *(_section(found, setting) for setting in found.main),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def _differences(found: Numbers) -> str:
    """The main table: U-Mamba against the control and the CNN on each data set, and how often that is significant."""
    columns = {}
    for network, other, title in _MAIN_PAIRS:
        rows = {row["setting"]: row for row in numbers.contrast(found.differences, network, other, found.main)}
        if rows:
            columns[title] = rows
    if not columns:
        return ""
    table = []
    for setting, metric in found.main.items():
        line = {title: cells.difference(rows.get(setting)) for title, rows in columns.items()}
        if set(line.values()) != {MISSING}:
            table.append({"data set": f"{found.titles[setting]} ({METRICS[metric].title})"} | line)
    counts = {title: cells.better_and_worse(list(rows.values())) for title, rows in columns.items()}
    table.append({"data set": "significantly better, worse"} | counts)
    return f"## Differences\n\n{to_markdown(pd.DataFrame(table))}\n\n{_MAIN_NOTE}"


def _section(found: Numbers, setting: str) -> str:
    """A data set: the main score of each network, its difference to the control and what it costs."""
    metric = found.main[setting]
    costs = found.costs[found.costs["setting"] == setting].set_index("network")
    table = []
    for row in numbers.rows_of(found.rows, setting, metric):
        against = numbers.contrast(found.differences, row["network"], CONTROL, {setting: metric})
        table.append({
            "network": title_of(row["network"]), "runs": str(row["runs"]), "cases": str(row["cases"]),
            METRICS[metric].title: cells.interval(row["mean"], row["low"], row["high"], metric),
            "SD of seeds": cells.number(row["sd_seeds"], metric),
            "minus control": cells.difference(against[0] if against else None),
            **cost_cells(costs.loc[row["network"]], _COSTS),
        })  # fmt: skip
    text = pd.DataFrame(table)
    text = text[[c for c in text.columns if (text[c] != MISSING).any()]]
    return "\n\n".join([f"### {markdown(found.titles[setting])}", to_markdown(text), *numbers.doubts(found, setting)])
