"""The tables of a report: scores, by class, pairwise tests, ranks, and the settings in which runs differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from umamba.evaluation.identity import differing
from umamba.evaluation.metrics import INFINITE, METRICS
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.networks import (
    MISSING,
    by_case,
    network_means,
    network_scores,
    order_networks,
    paired,
    replicate_spread,
    title_of,
)
from umamba.evaluation.report.published import published_score
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.table_text import format_metric, mark_best
from umamba.evaluation.tables import class_table, metrics_of


def main_metrics(scores: pd.DataFrame) -> list[str]:
    """What networks are compared by: DSC, NSD and HD95, or for instances F1."""
    return [metric for metric in metrics_of(scores) if METRICS[metric].compared]


def result_table(scores: pd.DataFrame, dataset: str, published: Mapping[str, Any]) -> pd.DataFrame:
    """Networks of one data set: how many cases have a score, mean ± SD over them, 95 % interval, SD over replicates.

    Beside them the paper's score if ours were scored with protocol paper, and how many scores of all replicates are
    infinite if any is.

    Args:
        scores: Of `all_scores`, one data set.
        dataset: Its name, as in published.yaml if it is there.
        published: What `load_published` gives.

    Returns:
        Text, one row per network.
    """
    means, spread = network_means(scores), replicate_spread(scores)
    cases = {metric: by_case(scores, metric) for metric in main_metrics(scores)}
    rows = []
    for network in means.index:
        row = {"network": title_of(network), "cases": int(next(iter(cases.values()))[network].notna().sum())}
        row["runs"] = int(spread.loc[network, "replicates"])
        for metric, table in cases.items():
            title = METRICS[metric].title
            row[title] = format_metric(metric, means.loc[network, metric], means.loc[network, f"{metric}_sd"])
            interval = [format_metric(metric, end) for end in statistics.bootstrap_mean(table[network].to_numpy())]
            row[f"{title} 95 %"] = MISSING if MISSING in interval else " to ".join(interval)
            row[f"{title} SD of runs"] = format_metric(metric, spread.loc[network, f"{metric}_sd_replicates"])
            if metric in INFINITE and means[f"{metric}_infinite"].any():
                row[f"{title} inf."] = int(means.loc[network, f"{metric}_infinite"])
            if dataset in published["settings"] and scores["protocol"].iloc[0].startswith("paper"):
                row[f"{title} paper"] = published_score(published, dataset, network, metric)
        rows.append(row)
    text = pd.DataFrame(rows)
    for metric in cases:
        mark_best(text, METRICS[metric].title, means[metric], lower_is_better=METRICS[metric].lower_is_better)
    return text


def classes_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of one data set by class and network, as text: mean ± SD over cases, and how many are infinite."""
    table = class_table(network_scores(scores))
    text = {
        title_of(network): {
            row["class"]: format_metric(metric, row[metric], row[f"{metric}_sd"])
            + (f" ({row[f'{metric}_infinite']} inf.)" if row.get(f"{metric}_infinite") else "")
            for row in part.to_dict("records")
        }
        for network, part in table.groupby("run", sort=False)
    }
    return pd.DataFrame(text).rename_axis("class").reset_index()


def comparison_table(compared: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`statistics.compare_networks` as text; significant differences (Holm-corrected p < 0.05) carry a star."""
    decimals = METRICS[metric].decimals
    rows = []
    for row in compared.to_dict("records"):
        low, high, difference = (f"{row[name]:+.{decimals}f}" for name in ("low", "high", "difference"))
        rows.append({
            "network": title_of(row["network"]), "against": title_of(row["other"]), "cases": row["cases"],
            "difference": difference if row["cases"] else MISSING,
            "95 %": MISSING if np.isnan(row["low"]) else f"{low} to {high}",
            "P(not better)": p_text(row["p_false"]),
            "p (Wilcoxon)": p_text(row["p"]),
            "p (Holm)": p_text(row["p_holm"]) + (" *" if row["p_holm"] < statistics.SIGNIFICANT else ""),
        })  # fmt: skip
    return pd.DataFrame(rows)


def rank_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean rank of each network over the cases, best first, as text."""
    ranks = statistics.mean_ranks(paired(scores, metric), lower_is_better=METRICS[metric].lower_is_better)
    text = [f"{rank:.2f}" for rank in ranks]
    return pd.DataFrame({"network": list(map(title_of, ranks.index)), "mean rank": text})


def settings_table(runs: Sequence[ScoredRun], beyond: Sequence[str]) -> pd.DataFrame:
    """Every setting in which networks of one name differ, or all beyond their networks; one column per network.

    Args:
        runs: Of one data set.
        beyond: Of `beyond_networks`.

    Returns:
        Text; empty if nothing differs.
    """
    named = {run.network: run.facts for run in runs}
    compared = [(named, list(beyond))]
    by_base: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        if run.suffix:
            by_base.setdefault(run.record["network"] + run.extras, {})[run.network] = run.facts
    compared += [
        (variants, [key for key in differing(list(variants.values())) if key not in beyond])
        for variants in by_base.values()
    ]
    rows = [
        {"setting": key, **{title_of(name): str(facts.get(key, MISSING)) for name, facts in variants.items()}}
        for variants, keys in compared
        for key in keys
    ]
    return pd.DataFrame(rows).fillna("")


def runs_table(runs: Sequence[ScoredRun]) -> pd.DataFrame:
    """The runs behind the numbers: what each was, of which code and when, and where it lies."""
    rows = []
    for run in sorted(
        runs, key=lambda run: (order_networks([r.network for r in runs]).index(run.network), run.replicate)
    ):
        # Older records do not say how many epochs.
        epochs = sorted({member["epochs"] for member in run.record["members"] if member.get("epochs") is not None})
        made = run.provenance
        rows.append({
            "network": title_of(run.network), "fold, seed": run.replicate or MISSING,
            "epochs": ", ".join(map(str, epochs)) or MISSING,
            "commit": _of_all(one.get("git_revision") for one in made),
            "date": _of_all(str(one.get("started") or "")[:10] for one in made), "folder": str(run.folder),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _of_all(values: Iterable[str | None]) -> str:
    """What all trainings of a run have in common; a dash where one of them is unknown."""
    known = set(values)
    if not known or not all(known):
        return MISSING
    return str(known.pop()) if len(known) == 1 else "several"


def class_names(scores: pd.DataFrame) -> list[str]:
    """Classes in the order of the scores, without the row in all."""
    return list(scores["class"].unique())


def p_text(p: float) -> str:
    """A probability: four decimals, a dash for none."""
    return MISSING if np.isnan(p) else ("< 0.0001" if p < 1e-4 else f"{p:.4f}")
