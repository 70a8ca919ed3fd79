"""The tables of a report as numbers, for programs: a column each, in full, with the unit in its name; NaN for none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umamba.evaluation.metrics import INFINITE, METRICS
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.networks import (
    by_case,
    network_means,
    network_scores,
    order_networks,
    replicate_spread,
    title_of,
)
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.tables import class_table, metrics_of

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png")  # files that have no voxel size
_NONE = (np.nan, np.nan)  # mean and SD of nothing
_EITHER = (".tif", ".tiff")  # volumes have one in a file beside them


def main_metrics(scores: pd.DataFrame) -> list[str]:
    """What networks are compared by: DSC, NSD and HD95, or for instances F1."""
    return [metric for metric in metrics_of(scores) if METRICS[metric].compared]


def distance_unit(runs: Sequence[ScoredRun]) -> str:
    """What distances are in, "mm" or "px", by the files that were scored; "mm_or_px" where their names do not tell."""
    endings = {Path(pair["reference"]).suffix.lower() for run in runs for pair in run.record.get("pairs", ())}
    if not endings or endings & {*_EITHER}:
        return "mm_or_px"
    return "px" if endings <= {*_PICTURES} else "mm"


def result_numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """Networks of one data set, a row each: how many cases have a score, and of each metric what is known of its mean.

    Args:
        scores: Of `all_scores`, one data set.

    Returns:
        Columns network, cases, runs, and METRIC_mean, METRIC_sd (over cases), METRIC_low and METRIC_high (95 %
        bootstrap interval of the mean), METRIC_sd_runs (over folds and seeds); METRIC_infinite (scores of all runs that
        are left out) if any is.
    """
    means, spread = network_means(scores), replicate_spread(scores)
    cases = {metric: by_case(scores, metric) for metric in main_metrics(scores)}
    first = next(iter(cases.values()))
    rows = []
    for network in means.index:
        row = {"network": network, "cases": int(first[network].notna().sum())}
        row["runs"] = int(spread.loc[network, "replicates"])
        for metric, table in cases.items():
            row |= {f"{metric}_mean": means.loc[network, metric], f"{metric}_sd": means.loc[network, f"{metric}_sd"]}
            ends = statistics.bootstrap_mean(table[network].to_numpy())
            row |= dict(zip((f"{metric}_low", f"{metric}_high"), ends, strict=True))
            row[f"{metric}_sd_runs"] = spread.loc[network, f"{metric}_sd_replicates"]
            if metric in INFINITE and means[f"{metric}_infinite"].any():
                row[f"{metric}_infinite"] = int(means.loc[network, f"{metric}_infinite"])
        rows.append(row)
    return pd.DataFrame(rows)


def class_numbers(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of one data set, a row for each network and class and for all of them: see `class_table`."""
    table = class_table(network_scores(scores)).rename(columns={"run": "network", metric: f"{metric}_mean"})
    infinite = [f"{metric}_infinite"] if metric in INFINITE else []
    return table[["network", "class", "cases", "left_out", f"{metric}_mean", f"{metric}_sd", *infinite]]


def paper_numbers(scores: pd.DataFrame, number: int, published: Mapping[str, Any]) -> pd.DataFrame:
    """Table 3 (3D) or 4 (2D) of the paper: our scores, and the paper's beside them.

    Args:
        scores: From `all_scores`, of any data sets.
        number: 3 or 4.
        published: What `load_published` gives.

    Returns:
        One row per network, with the columns SETTING_METRIC_mean and _sd, and SETTING_METRIC_paper_mean, _paper_sd and
        _paper_provisional (True: quoted without a second source); settings without a run of ours have NaN.
    """
    settings = {name: s for name, s in published["settings"].items() if s["table"] == number}
    ours = {
        name: network_means(part.dropna(axis=1, how="all"))
        for name, part in scores.groupby("dataset")
        if name in settings
    }
    networks = [network for means in ours.values() for network in means.index]
    rows: list[dict[str, Any]] = []
    for network in order_networks([*networks, *(name for s in settings.values() for name in s["scores"])]):
        rows.append({"network": network})
        for name, setting in settings.items():
            for metric in next(iter(setting["scores"].values())):
                column, known = f"{name}_{metric}", name in ours and network in ours[name].index
                here = ours[name].loc[network, [metric, f"{metric}_sd"]] if known else _NONE
                theirs = setting["scores"].get(network, {}).get(metric)
                rows[-1] |= _pair(column, here) | _pair(f"{column}_paper", theirs or _NONE)
                provisional = theirs and network not in setting["confirmed"].get(metric, ())
                rows[-1][f"{column}_paper_provisional"] = provisional
    return pd.DataFrame(rows)


def for_programs(table: pd.DataFrame, metric: str = "", unit: str = "") -> pd.DataFrame:
    """A table of numbers as it is written: networks by their titles, the unit of distances in the columns' names."""
    written = table.assign(**{name: table[name].map(title_of) for name in ("network", "other") if name in table})
    compared = ("difference", "low", "high") if metric in INFINITE else ()
    of_distance = tuple(f"{name}_{kind}" for name in INFINITE for kind in ("mean", "sd", "low", "high", "sd_runs"))
    return written.rename(columns={n: f"{n}_{unit}" for n in (*compared, *of_distance)} if unit else {})


def _pair(name: str, values: Sequence[float]) -> dict[str, float]:
    return dict(zip((f"{name}_mean", f"{name}_sd"), map(float, values), strict=True))
