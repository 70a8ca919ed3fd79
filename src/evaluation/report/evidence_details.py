"""The second page of a benchmark, to look things up: all scores, tests and costs, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import evidence_cells as cells
from umamba.evaluation.report import evidence_tables as numbers
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.evidence_origin import made
from umamba.evaluation.report.evidence_tables import CNN, CONTROL, Numbers
from umamba.evaluation.report.left_out import Faults
from umamba.evaluation.report.networks import MISSING, cost_cells, title_of
from umamba.evaluation.report.tables import p_text
from umamba.evaluation.table_text import markdown, to_markdown

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


def details(found: Numbers, records: Sequence[Mapping[str, Any]], faults: Faults) -> str:
    """The page as Markdown.

    Args:
        found: The numbers.
        records: That count.
        faults: Name of a record that does not -> why.
    """
    parts = [
        "# Evidence in detail: every score, test and cost",
        "What they say is on [the first page](README.md); as files they are in `tables/`.",
        _overview(found),
        f"## Each data set in full\n\n- {_SCORE_NOTE}\n- {_DIFFERENCE_NOTE}",
        *(_section(found, setting) for setting in found.main),
        f"## Cost\n\n{_COST_NOTE}\n\n{to_markdown(_costs(found))}",
        made(records, faults, found.titles),
    ]
    return "\n\n".join(parts) + "\n"


def _overview(found: Numbers) -> str:
    """The mean of each network on each data set, and its mean rank over all that every network was trained on."""
    networks = numbers.in_order(found.rows["network"].unique())
    means = numbers.setting_means(found.rows, found.main)
    ranks = statistics.mean_ranks(means) if means.shape[1] > 1 else pd.Series(dtype=float)
    table = []
    for setting, metric in found.main.items():
        here = {row["network"]: row["mean"] for row in numbers.rows_of(found.rows, setting, metric)}
        line = {title_of(n): f"{100 * here[n]:.2f}" if n in here else MISSING for n in networks}
        table.append({"data set": found.titles[setting]} | line)
    note = "DSC in points (nuclei and other instances: F1), mean over cases and seeds."
    if len(ranks) > 1 and len(means) > 1:
        line = {title_of(n): f"{ranks[n]:.2f}" if n in ranks else MISSING for n in networks}
        table.append({"data set": "mean rank"} | line)
        critical = statistics.critical_difference(len(ranks), len(means))
        note += (
            f" Mean ranks are over {len(means)} data sets, of the networks that were trained on all of them; two of "
            f"these differ significantly (Nemenyi, 5 %) if their mean ranks are more than {critical:.2f} apart. "
            f"{statistics.doubts_of_ranks(len(ranks), len(means), 'data set')}".rstrip()
            + " Where data sets share cases, as 2D and 3D of one do, this test finds too much."
        )
    return f"## Scores\n\n{to_markdown(pd.DataFrame(table))}\n\n{note}"


def _section(found: Numbers, setting: str) -> str:
    main = found.main[setting]
    rows = found.rows[found.rows["setting"] == setting]
    of_main = numbers.comparisons(found.differences, setting, main)
    scores, compared = [], []
    for network in numbers.in_order(rows["network"].unique()):
        row: dict[str, str] = {"network": title_of(network)}
        for one in rows[rows["network"] == network].to_dict("records"):
            row["runs"], row["cases"] = str(one["runs"]), str(max(int(row.get("cases", 0)), one["cases"]))
            heading = METRICS[one["metric"]].title
            row[heading] = cells.interval(one["mean"], one["low"], one["high"], one["metric"])
            row[heading] += f" ({one['infinite']} inf.)" if one["infinite"] else ""
            if one["metric"] == main:
                row["SD of seeds"] = cells.number(one["sd_seeds"], main)
        scores.append(row)
        line = {"network": title_of(network)}
        for other, called in ((CONTROL, "control"), (CNN, "CNN")):
            line |= _against(of_main, network, other, called, main)
        if set(line.values()) - {line["network"], MISSING}:
            compared.append(line)
    parts = [f"### {markdown(found.titles[setting])}", to_markdown(pd.DataFrame(scores))]
    if compared:
        parts += [f"{METRICS[main].title}, difference to the control without Mamba and to nnU-Net's CNN:",
                  to_markdown(pd.DataFrame(compared))]  # fmt: skip
    return "\n\n".join([*parts, *numbers.doubts(found, setting)])


def _against(table: pd.DataFrame, network: str, other: str, called: str, metric: str) -> dict[str, str]:
    """The cells of a comparison."""
    keys = (f"minus {called}", f"p ({called})", f"P(not better than {called})")
    one = statistics.pair_of(table, network, other)
    if one is None:
        return dict.fromkeys(keys, MISSING)
    star = " *" if one["p_holm"] < statistics.SIGNIFICANT else ""
    difference = cells.interval(one["difference"], one["low"], one["high"], metric, signed=True)
    return dict(zip(keys, (difference, p_text(one["p_holm"]) + star, p_text(one["p_false"])), strict=True))


def _costs(found: Numbers) -> pd.DataFrame:
    table = []
    for setting in [name for name in found.titles if name in set(found.costs["setting"])]:
        part = found.costs[found.costs["setting"] == setting].set_index("network")
        for network in numbers.in_order(part.index):
            line = cost_cells(part.loc[network], numbers.COSTS)
            table.append({"data set": found.titles[setting], "network": title_of(network), **line})
    text = pd.DataFrame(table)
    return text[[c for c in text.columns if (text[c] != MISSING).any()]]
