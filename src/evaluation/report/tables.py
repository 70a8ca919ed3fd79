"""The tables of a report: scores, by class, pairwise tests, ranks, and the settings in which runs differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from umamba.evaluation.identity import differing
from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.networks import MISSING, order_networks, title_of, to_rank
from umamba.evaluation.report.numbers import main_metrics
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.table_text import format_metric, format_score, mark_best

PUBLISHED = Path(__file__).with_name("published.yaml")
MARKS = {True: "", False: "°"}  # behind a published number: confirmed, provisional


def result_table(
    numbers: pd.DataFrame, scores: pd.DataFrame, dataset: str, published: Mapping[str, Any]
) -> pd.DataFrame:
    """Networks of one data set: how many cases have a score, mean ± SD over them, 95 % interval, SD over replicates.

    Beside them the paper's score if ours were scored with protocol paper, and how many scores of all replicates are
    infinite if any is: such a network is never marked as the best.

    Args:
        numbers: Of `result_numbers`.
        scores: Of `all_scores`, one data set.
        dataset: Its name, as in published.yaml if it is there.
        published: What `load_published` gives.
    """
    beside_paper = dataset in published["settings"] and scores["protocol"].iloc[0].startswith("paper")
    rows = []
    for found in numbers.to_dict("records"):
        row = {"network": title_of(found["network"]), "cases": found["cases"], "runs": found["runs"]}
        for metric in main_metrics(scores):
            title = METRICS[metric].title
            row[title] = format_metric(metric, found[f"{metric}_mean"], found[f"{metric}_sd"])
            interval = [format_metric(metric, found[f"{metric}_{end}"]) for end in ("low", "high")]
            row[f"{title} 95 %"] = MISSING if MISSING in interval else " to ".join(interval)
            row[f"{title} SD of runs"] = format_metric(metric, found[f"{metric}_sd_runs"])
            if f"{metric}_infinite" in found:
                row[f"{title} inf."] = found[f"{metric}_infinite"]
            if beside_paper:
                row[f"{title} paper"] = published_score(published, dataset, found["network"], metric)
        rows.append(row)
    text = pd.DataFrame(rows)
    for metric in main_metrics(scores):
        lower_is_better, means = METRICS[metric].lower_is_better, numbers[f"{metric}_mean"]
        if f"{metric}_infinite" in numbers:
            means = to_rank(means, numbers[f"{metric}_infinite"])
        mark_best(text, METRICS[metric].title, means, lower_is_better=lower_is_better)
    return text


def classes_table(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`class_numbers` as text, by class and network: mean ± SD over cases, and how many are infinite."""
    text = {
        title_of(network): {
            row["class"]: format_metric(metric, row[f"{metric}_mean"], row[f"{metric}_sd"])
            + (f" ({row[f'{metric}_infinite']} inf.)" if row.get(f"{metric}_infinite") else "")
            for row in part.to_dict("records")
        }
        for network, part in numbers.groupby("network", sort=False)
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


def rank_table(ranks: pd.Series) -> pd.DataFrame:
    """`statistics.mean_ranks` as text, best first."""
    text = [f"{rank:.2f}" for rank in ranks]
    return pd.DataFrame({"network": list(map(title_of, ranks.index)), "mean rank": text})


def settings_table(runs: Sequence[ScoredRun], beyond: Sequence[str]) -> pd.DataFrame:
    """Every setting of a data set's runs in which networks of one name differ, and `beyond_networks`; a column each."""
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


def load_published() -> dict[str, Any]:
    """The published numbers, see published.yaml."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_score(published: Mapping[str, Any], dataset: str, network: str, metric: str) -> str:
    """The paper's mean ± SD for a setting, provisional ones with a mark; a dash where it has none."""
    setting = published["settings"].get(dataset, {})
    score = setting.get("scores", {}).get(network, {}).get(metric)
    if score is None:
        return MISSING
    return format_score(*score) + MARKS[network in setting["confirmed"].get(metric, ())]


def paper_table(numbers: pd.DataFrame, number: int, published: Mapping[str, Any]) -> pd.DataFrame:
    """`paper_numbers` of table 3 or 4 as text: a dash where there is no score, a mark at provisional ones."""
    table = {"network": numbers["network"].map(title_of)}
    for name, setting in published["settings"].items():
        for metric in next(iter(setting["scores"].values())) if setting["table"] == number else ():
            key, column = f"{name}_{metric}", f"{setting['title']} {METRICS[metric].title}"
            scores = zip(numbers[f"{key}_mean"], numbers[f"{key}_sd"], strict=True)
            table[column] = [format_score(*score) for score in scores]
            table[f"{column}, paper"] = [
                published_score(published, name, network, metric) for network in numbers["network"]
            ]
    return pd.DataFrame(table)


def published_elsewhere(published: Mapping[str, Any], datasets: Sequence[str]) -> pd.DataFrame:
    """Scores that others report on one of these data sets, which is known by its name in theirs; empty if none is."""
    names = {name.rsplit("_", 1)[-1].upper() for name in datasets}
    columns = published["revisited"]["columns"]
    kept = [index for index, name in enumerate(columns) if name.upper() in names]
    if not kept:
        return pd.DataFrame()
    rows = [[network, *(values[i] for i in kept)] for network, values in published["revisited"]["rows"].items()]
    return pd.DataFrame(rows, columns=["network", *(columns[i] for i in kept)])
