"""The numbers of a benchmark's page: scores, differences to the reference networks, ranks, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.networks import (
    all_scores,
    by_case,
    compare,
    mean_costs,
    network_means,
    order_networks,
    replicate_spread,
    unlike_cases,
)
from umamba.evaluation.report.numbers import main_metrics
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.tables import metrics_of

CONTROL, CNN = "umamba_none", "nnunet"
ORDER = (CNN, "resenc", CONTROL, "umamba_bot", "umamba_enc", "segresnet", "unetr", "swinunetr")  # of a page's rows
COSTS = {  # title, factor, decimals
    "parameters": ("parameters, M", 1e-6, 1),
    "gflops": ("GFLOPs per patch", 1, 0),
    "seconds_per_step": ("s per step", 1, 3),
    "train_peak_vram_gib": ("GPU memory, GiB", 1, 1),
    "seconds_per_case": ("s per case", 1, 2),
    "gpu_hours": ("GPU hours", 1, 3),
    "energy_wh": ("Wh", 1, 1),
    "runs_per_gpu": ("trainings on the GPU", 1, 1),
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """All that the pages of a benchmark show, from which its figure and its CSV files are made too."""

    trainings: int
    titles: Mapping[str, str]  # data set -> its title
    main: Mapping[str, str]  # data set -> its main metric, in the order of the pages
    scores: Mapping[str, pd.DataFrame]  # data set -> scores of each case
    rows: pd.DataFrame  # of `score_rows`, all data sets; so are the next two
    differences: pd.DataFrame
    costs: pd.DataFrame


def numbers_of(runs: Sequence[ScoredRun], titles: Mapping[str, str]) -> Numbers:
    """The numbers of runs that can be compared, with data sets in the order of their titles."""
    together = all_scores(runs)
    settings = sorted({run.dataset for run in runs}, key=list(titles).index)
    scores = {name: together[together["dataset"] == name].dropna(axis=1, how="all") for name in settings}
    return Numbers(
        trainings=len(runs),
        titles=titles,
        main={name: main_metric(scores[name]) for name in settings},
        scores=scores,
        rows=pd.concat([score_rows(name, scores[name]) for name in settings], ignore_index=True),
        differences=pd.concat([difference_rows(name, scores[name]) for name in settings], ignore_index=True),
        costs=cost_rows(runs),
    )


def in_order(networks: Iterable[str]) -> list[str]:
    """The networks of `ORDER` in its order, then all others by name."""
    return order_networks(networks, ORDER)


def main_metric(scores: pd.DataFrame) -> str:
    """DSC, or for instances F1."""
    return "f1" if "f1" in metrics_of(scores) else "dsc"


def score_rows(setting: str, scores: pd.DataFrame) -> pd.DataFrame:
    """Mean, 95 % bootstrap interval over cases and SD over seeds of each network, one row per network and metric.

    ``infinite`` counts the scores of all seeds that are left out because they are (HD95 of a class that was missed).

    Args:
        setting: Name of the data set.
        scores: Of it alone, see `all_scores`. Seeds are averaged by case first.
    """
    means, spread = network_means(scores), replicate_spread(scores)
    rows = []
    for metric in main_metrics(scores):
        cases = by_case(scores, metric)
        for network in means.index:
            low, high = statistics.bootstrap_mean(cases[network].to_numpy())
            rows.append({
                "setting": setting, "network": network, "metric": metric, "runs": spread.loc[network, "replicates"],
                "cases": int(cases[network].notna().sum()), "mean": means.loc[network, metric], "low": low,
                "high": high, "sd_cases": cases[network].std(),
                "sd_seeds": spread.loc[network, f"{metric}_sd_replicates"],
                "infinite": int(means.loc[network].get(f"{metric}_infinite", 0)),
            })  # fmt: skip
    return pd.DataFrame(rows)


def difference_rows(setting: str, scores: pd.DataFrame) -> pd.DataFrame:
    """Each network against the control without Mamba and against nnU-Net's CNN, paired over cases.

    One family of tests for Holm's correction is a data set and a metric.
    """
    frames = []
    for metric in main_metrics(scores):
        frames.append(compare(scores, metric, (CONTROL, CNN)).assign(setting=setting, metric=metric))
    table = pd.concat(frames, ignore_index=True)
    return table[["setting", "metric", *(c for c in table.columns if c not in ("setting", "metric"))]]


def rows_of(rows: pd.DataFrame, setting: str, metric: str) -> list[dict[str, Any]]:
    """Of `score_rows`, those of a data set and a metric, networks in the order of `ORDER`."""
    part = rows[(rows["setting"] == setting) & (rows["metric"] == metric)].set_index("network", drop=False)
    return [{str(key): value for key, value in part.loc[name].items()} for name in in_order(part.index)]


def comparisons(differences: pd.DataFrame, setting: str, metric: str) -> pd.DataFrame:
    """Of `difference_rows`, those of a data set and a metric."""
    return differences[(differences["setting"] == setting) & (differences["metric"] == metric)]


def doubts(found: Numbers, setting: str) -> list[str]:
    """What the numbers of a data set cannot show, in sentences."""
    compared = comparisons(found.differences, setting, found.main[setting])
    said = (
        statistics.doubts_of_tests(int(compared["cases"].max()), int(compared["p"].notna().sum()))
        if len(compared)
        else []
    )
    return [*said, *filter(None, [unlike_cases(found.scores[setting])])]


def setting_means(rows: pd.DataFrame, main: Mapping[str, str]) -> pd.DataFrame:
    """Mean score of each network (column) on each data set (row) that every network has; networks of few are left out.

    Args:
        rows: Of `score_rows`, all data sets.
        main: Data set -> its main metric.
    """
    chosen = rows[rows["metric"] == rows["setting"].map(main)]
    table = chosen.pivot(index="setting", columns="network", values="mean").reindex(list(main))
    complete = table[[c for c in table.columns if table[c].notna().all()]]
    return complete[in_order(complete.columns)]


def cost_rows(runs: Sequence[ScoredRun]) -> pd.DataFrame:
    """Mean cost of the runs of each data set and network; NaN where none measured it."""
    measured: dict[tuple[str, str], list[ScoredRun]] = {}
    for run in runs:
        measured.setdefault((run.dataset, run.network), []).append(run)
    rows = [{"setting": key[0], "network": key[1]} | mean_costs(some, list(COSTS)) for key, some in measured.items()]
    return pd.DataFrame(rows, columns=["setting", "network", *COSTS])


def contrast(differences: pd.DataFrame, network: str, other: str, main: Mapping[str, str]) -> list[dict[str, Any]]:
    """Two networks on each data set that has both, by its main metric: rows of `difference_rows` in this direction.

    Each row also has "comparisons", the number that its p was corrected for.

    Args:
        differences: Of `difference_rows`, all data sets.
        network: Which.
        other: Against which.
        main: Data set -> its main metric.
    """
    found = []
    for setting, metric in main.items():
        part = comparisons(differences, setting, metric)
        row = statistics.pair_of(part, network, other)
        if row is not None and row["cases"]:
            found.append(row | {"comparisons": int(part["p"].notna().sum())})
    return found
