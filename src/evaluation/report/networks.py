"""From scored runs to networks: scores averaged over folds and seeds, and what networks are compared by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

import numpy as np
import pandas as pd

from umamba.evaluation.metrics import INFINITE, METRICS
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.report.significance import compare_networks
from umamba.evaluation.tables import case_means, class_table, count_infinite, in_all, metrics_of

# The order of the paper's tables; other networks follow by name.
PAPER_ORDER = ("nnunet", "segresnet", "unetr", "swinunetr", "umamba_bot", "umamba_enc")
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
MISSING = "–"  # in a table of text: there is no such number
COSTS = {  # key of a record's cost -> title, factor, decimals
    "parameters": ("parameters (M)", 1e-6, 1),
    "gflops": ("GFLOPs per patch", 1, 0),
    "train_peak_vram_gib": ("peak VRAM (GiB)", 1, 1),
    "seconds_per_epoch": ("s per epoch", 1, 1),
    "seconds_per_case": ("s per case", 1, 1),
}


def all_scores(runs: Sequence[ScoredRun]) -> pd.DataFrame:
    """The scores of all runs below one another, with the columns dataset, network and replicate."""
    frames = [
        count_infinite(run.scores).assign(dataset=run.dataset, network=run.network, replicate=run.replicate)
        for run in runs
    ]
    return pd.concat(frames, ignore_index=True)


def without_scores(scores: pd.DataFrame) -> list[str]:
    """Data sets in which no case has a score, sorted: neither references nor predictions hold a class."""
    scored = scores[metrics_of(scores)].notna().any(axis=1).groupby(scores["dataset"]).any()
    return sorted(scored.index[~scored])


def base_name(network: str) -> str:
    """A network's name without what tells it apart and was done beyond the plain prediction."""
    return re.split(r", | \(", network, maxsplit=1)[0]


def title_of(network: str) -> str:
    """A network's name for people, options kept."""
    name = base_name(network)
    return NETWORK_TITLES.get(name, name) + network.removeprefix(name)


def order_networks(names: Iterable[str], order: Sequence[str] = PAPER_ORDER) -> list[str]:
    """The networks of an order in this order, then all others by name."""
    known = {name: index for index, name in enumerate(order)}
    return sorted(set(names), key=lambda name: (known.get(base_name(name), len(known)), name))


def network_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of one data set, averaged over the replicates of each network.

    Returns:
        As `evaluate`, with a column "run" that holds the network; a case scored in several replicates has one row. What
        is infinite in some of them is the mean of the others, and counted: see `count_infinite`.
    """
    groups = count_infinite(scores).groupby(["network", "case", "class"], sort=False)
    means = groups.agg(dict.fromkeys(metrics_of(scores), "mean") | {f"{name}_infinite": "sum" for name in INFINITE})
    means = means.reset_index()
    means["protocol"] = scores["protocol"].iloc[0]
    order = {name: index for index, name in enumerate(order_networks(scores["network"].unique()))}
    return means.rename(columns={"network": "run"}).sort_values("run", key=lambda c: c.map(order), kind="stable")


def network_means(scores: pd.DataFrame) -> pd.DataFrame:
    """The row in all of each network's `class_table`, by network; replicates are averaged per case first."""
    return in_all(class_table(network_scores(scores))).set_index("run")


def to_rank(means: pd.Series, infinite: pd.Series) -> pd.Series:
    """Means by which a best one is found: infinite where anything infinite was left out, the worst of a distance."""
    return means.mask(infinite > 0, np.inf)


def best_network(scores: pd.DataFrame, metric: str) -> str:
    """The network of the best mean of a metric, see `to_rank`; for one data set."""
    means = network_means(scores)
    if metric in INFINITE:
        means[metric] = to_rank(means[metric], means[f"{metric}_infinite"])
    return str(means[metric].idxmin() if METRICS[metric].lower_is_better else means[metric].idxmax())


def replicate_spread(scores: pd.DataFrame) -> pd.DataFrame:
    """SD of a network's mean score over its replicates (seeds, folds), for one data set.

    Returns:
        By network: replicates, and METRIC_sd_replicates (NaN for a single one).
    """
    rows = []
    for network, part in scores.groupby("network", sort=False):
        means = pd.concat([in_all(class_table(one)) for _, one in part.groupby("replicate")])
        row = {"network": network, "replicates": len(means)}
        rows.append(row | {f"{metric}_sd_replicates": means[metric].std() for metric in metrics_of(scores)})
    return pd.DataFrame(rows).set_index("network")


def by_case(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean score of each case, one column per network; for one data set."""
    means = case_means(network_scores(scores))
    return means.pivot(index="case", columns="run", values=metric)[order_networks(means["run"].unique())]


def paired(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What networks are compared by: `by_case`, or a row per case and class for a metric that can be infinite.

    There a network that misses a difficult class would have the mean of the easy ones; so two are compared where both
    have found the class.
    """
    if not METRICS[metric].infinite:
        return by_case(scores, metric)
    means = network_scores(scores)
    table = means.pivot(index=["case", "class"], columns="run", values=metric)
    return table[order_networks(means["run"].unique())]


def compare(scores: pd.DataFrame, metric: str, references: Sequence[str] | None = None) -> pd.DataFrame:
    """`compare_networks` by a metric, for one data set."""
    return compare_networks(paired(scores, metric), references, lower_is_better=METRICS[metric].lower_is_better)


def unlike_cases(scores: pd.DataFrame) -> str:
    """What to say where the networks of a data set have their scores in different cases; "" where in the same."""
    scored = by_case(scores, metrics_of(scores)[0]).notna()
    if scored.nunique(axis=1).le(1).all():
        return ""
    counts = ", ".join(f"{title_of(name)} {count}" for name, count in scored.sum().items())
    return (
        f"The means are over different cases ({counts}): where the reference has no class, a network that finds none "
        "has no score and one that does has 0. Differences, tests and ranks are over cases in which those compared "
        "have a score, and leave out such a false alarm: they may point the other way than the means."
    )


def mean_costs(runs: Sequence[ScoredRun], keys: Sequence[str]) -> dict[str, float]:
    """Mean of each cost over the runs that measured it; NaN where none did."""
    found = {key: [cost for run in runs if (cost := run.record["cost"].get(key)) is not None] for key in keys}
    return {key: mean(costs) if costs else np.nan for key, costs in found.items()}


def cost_cells(costs: Mapping[str, float] | pd.Series, columns: Mapping[str, tuple[str, float, int]]) -> dict[str, str]:
    """Costs of a network as text, by title: a dash for what nobody measured; `columns` as `COSTS`."""
    return {
        title: MISSING if np.isnan(costs[key]) else f"{costs[key] * factor:.{decimals}f}"
        for key, (title, factor, decimals) in columns.items()
    }


def cost_table(runs: Sequence[ScoredRun]) -> pd.DataFrame:
    """Mean cost over the runs of each network, by network and cost."""
    networks = dict.fromkeys(run.network for run in runs)
    means = {name: mean_costs([run for run in runs if run.network == name], list(COSTS)) for name in networks}
    return pd.DataFrame.from_dict(means, orient="index", columns=list(COSTS))


def format_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """A `cost_table` as text, networks in the paper's order."""
    networks = order_networks(list(costs.index))
    return pd.DataFrame([{"network": title_of(name), **cost_cells(costs.loc[name], COSTS)} for name in networks])


def devices(runs: Sequence[ScoredRun]) -> list[str]:
    """The machines that the costs were measured on."""
    found = {run.record["cost"].get(key) for run in runs for key in ("train_device", "inference_device")}
    return sorted(device for device in found if device)
