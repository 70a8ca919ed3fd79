"""The tables of a report: scores beside the published ones and the cost, by class, and pairwise tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import yaml

from umamba.evaluation.identity import differing
from umamba.evaluation.report import runs as gather
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.tables import DECIMALS, METRIC_TITLES, class_table, format_score, in_all, metrics_of

PUBLISHED = Path(__file__).with_name("published.yaml")
NETWORK_TITLES = {
    "nnunet": "nnU-Net",
    "segresnet": "SegResNet",
    "unetr": "UNETR",
    "swinunetr": "SwinUNETR",
    "umamba_bot": "U-Mamba_Bot",
    "umamba_enc": "U-Mamba_Enc",
    "umamba_none": "U-Mamba without Mamba",
    "resenc": "nnU-Net ResEnc",
}
COSTS = {  # key of a record's cost -> title, factor, decimals
    "parameters": ("parameters (M)", 1e-6, 1),
    "gflops": ("GFLOPs per patch", 1, 0),
    "train_peak_vram_gib": ("peak VRAM (GiB)", 1, 1),
    "seconds_per_epoch": ("s per epoch", 1, 1),
    "seconds_per_case": ("s per case", 1, 1),
}
MARKS = {True: "", False: "°"}  # behind a published number: confirmed, provisional
MISSING = "–"


def load_published() -> dict[str, Any]:
    """The published numbers, see published.yaml."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def title_of(network: str) -> str:
    """A network's name for people, options kept."""
    name = gather.base_name(network)
    return NETWORK_TITLES.get(name, name) + network.removeprefix(name)


def main_metrics(scores: pd.DataFrame) -> list[str]:
    """DSC and NSD, or for instances F1."""
    return [metric for metric in ("dsc", "nsd", "f1") if metric in metrics_of(scores)]


def published_score(published: Mapping[str, Any], dataset: str, network: str, metric: str) -> str:
    """The paper's mean ± SD for a setting, provisional ones with a mark; a dash where it has none."""
    setting = published["settings"].get(dataset, {})
    score = setting.get("scores", {}).get(network, {}).get(metric)
    if score is None:
        return MISSING
    return format_score(*score) + MARKS[network in setting["confirmed"].get(metric, ())]


def result_table(scores: pd.DataFrame, dataset: str, published: Mapping[str, Any]) -> pd.DataFrame:
    """Networks of one data set: mean ± SD over cases, 95 % interval, SD over replicates, and the paper's score.

    The paper's score stands there if ours were scored with protocol paper.

    Args:
        scores: Of `gather.all_scores`, one data set.
        dataset: Its name, as in published.yaml if it is there.
        published: Of `load_published`.

    Returns:
        Text, one row per network.
    """
    means, spread = network_means(scores), gather.replicate_spread(scores)
    rows = []
    for network in means.index:
        row = {"network": title_of(network), "cases": int(means.loc[network, "cases"])}
        row["runs"] = int(spread.loc[network, "replicates"])
        for metric in main_metrics(scores):
            title = METRIC_TITLES[metric]
            row[title] = format_score(means.loc[network, metric], means.loc[network, f"{metric}_sd"])
            low, high = statistics.bootstrap_mean(gather.by_case(scores, metric)[network].to_numpy())
            row[f"{title} 95 %"] = f"{format_score(low)} to {format_score(high)}" if low == low else MISSING
            row[f"{title} SD of runs"] = format_score(spread.loc[network, f"{metric}_sd_replicates"])
            if dataset in published["settings"] and scores["protocol"].iloc[0].startswith("paper"):
                row[f"{title} paper"] = published_score(published, dataset, network, metric)
        if "hd95" in means:
            row["HD95"] = format_score(means.loc[network, "hd95"], means.loc[network, "hd95_sd"], DECIMALS["hd95"])
        rows.append(row)
    return pd.DataFrame(rows)


def network_means(scores: pd.DataFrame) -> pd.DataFrame:
    """The row in all of each network's `class_table`, by network; replicates are averaged per case first."""
    return in_all(class_table(gather.network_scores(scores))).set_index("run")


def cost_table(runs: Sequence[gather.ScoredRun]) -> pd.DataFrame:
    """Mean cost over the runs of each network, by network and cost; NaN where none measured it."""
    by_network: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        costs = by_network.setdefault(run.network, {key: [] for key in COSTS})
        for key in COSTS:
            if run.record["cost"].get(key) is not None:
                costs[key].append(run.record["cost"][key])
    means = {n: {key: mean(v) if v else np.nan for key, v in costs.items()} for n, costs in by_network.items()}
    return pd.DataFrame.from_dict(means, orient="index", columns=list(COSTS))


def format_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """A `cost_table` as text, networks in the paper's order."""
    text: dict[str, list[str]] = {"network": [], **{title: [] for title, _, _ in COSTS.values()}}
    for network in gather.order_networks(list(costs.index)):
        text["network"].append(title_of(network))
        for key, (title, factor, decimals) in COSTS.items():
            value = costs.loc[network, key]
            text[title].append(MISSING if np.isnan(value) else f"{value * factor:.{decimals}f}")
    return pd.DataFrame(text)


def devices(runs: Sequence[gather.ScoredRun]) -> list[str]:
    """The machines that the costs were measured on."""
    found = {run.record["cost"].get(key) for run in runs for key in ("train_device", "inference_device")}
    return sorted(device for device in found if device)


def classes_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of one data set by class and network: mean ± SD over cases, as text."""
    table = class_table(gather.network_scores(scores))
    text = {
        title_of(network): {
            row["class"]: format_score(row[metric], row[f"{metric}_sd"], DECIMALS.get(metric, 4))
            for row in part.to_dict("records")
        }
        for network, part in table.groupby("run", sort=False)
    }
    return pd.DataFrame(text).rename_axis("class").reset_index()


def comparison_table(by_case: pd.DataFrame) -> pd.DataFrame:
    """`statistics.compare_networks` as text; significant differences (Holm-corrected p < 0.05) carry a star."""
    rows = []
    for row in statistics.compare_networks(by_case).to_dict("records"):
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}" if row["low"] == row["low"] else MISSING
        rows.append({
            "network": title_of(row["network"]), "against": title_of(row["other"]), "cases": row["cases"],
            "difference": f"{row['difference']:+.4f}" if row["cases"] else MISSING, "95 %": interval,
            "P(not better)": p_text(row["p_false"]), "p (Wilcoxon)": p_text(row["p"]),
            "p (Holm)": p_text(row["p_holm"]) + (" *" if row["p_holm"] < 0.05 else ""),
        })  # fmt: skip
    return pd.DataFrame(rows)


def paper_table(scores: pd.DataFrame, number: int, published: Mapping[str, Any]) -> pd.DataFrame:
    """Table 3 (3D) or 4 (2D) of the paper: our scores, and the paper's beside them.

    Args:
        scores: Of `gather.all_scores`, any data sets.
        number: 3 or 4.
        published: Of `load_published`.

    Returns:
        Text, one row per network; settings without a run of ours have dashes.
    """
    settings = {name: s for name, s in published["settings"].items() if s["table"] == number}
    ours = {
        name: network_means(part.dropna(axis=1, how="all"))
        for name, part in scores.groupby("dataset")
        if name in settings
    }
    networks = [network for means in ours.values() for network in means.index]
    listed = [network for setting in settings.values() for network in setting["scores"]]
    rows = []
    for network in gather.order_networks([*networks, *listed]):
        row = {"network": title_of(network)}
        for name, setting in settings.items():
            for metric in next(iter(setting["scores"].values())):
                column = f"{setting['title']} {METRIC_TITLES[metric]}"
                here = ours.get(name)
                if here is None or network not in here.index:
                    row[column] = MISSING
                else:
                    row[column] = format_score(*here.loc[network, [metric, f"{metric}_sd"]])
                row[f"{column}, paper"] = published_score(published, name, network, metric)
        rows.append(row)
    return pd.DataFrame(rows)


def settings_table(runs: Sequence[gather.ScoredRun]) -> pd.DataFrame:
    """Every setting in which networks of one name differ, one column per network; empty if their names do."""
    by_base: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        if run.suffix:
            by_base.setdefault(run.record["network"] + run.extras, {})[run.network] = run.facts
    rows = []
    for variants in by_base.values():
        for key in differing(list(variants.values())):
            values = {title_of(name): str(facts.get(key, MISSING)) for name, facts in variants.items()}
            rows.append({"setting": key} | values)
    return pd.DataFrame(rows).fillna("")


def rank_table(by_case: pd.DataFrame) -> pd.DataFrame:
    """Mean rank of each network over the cases, best first, as text."""
    ranks = statistics.mean_ranks(by_case)
    text = [f"{rank:.2f}" for rank in ranks]
    return pd.DataFrame({"network": list(map(title_of, ranks.index)), "mean rank": text})


def class_names(scores: pd.DataFrame) -> list[str]:
    """Classes in the order of the scores, without the row in all."""
    return list(scores["class"].unique())


def p_text(p: float) -> str:
    """A probability: four decimals, a dash for none."""
    return MISSING if np.isnan(p) else ("< 0.0001" if p < 1e-4 else f"{p:.4f}")
