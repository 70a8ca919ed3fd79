"""What networks cost, as far as it was measured: parameters, FLOPs, memory and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
import pandas as pd

from umamba.evaluation.report.networks import MISSING, order_networks, title_of
from umamba.evaluation.report.scored_run import ScoredRun

COSTS = {  # key of a record's cost -> title, factor, decimals
    "parameters": ("parameters (M)", 1e-6, 1),
    "gflops": ("GFLOPs per patch", 1, 0),
    "train_peak_vram_gib": ("peak VRAM (GiB)", 1, 1),
    "seconds_per_epoch": ("s per epoch", 1, 1),
    "seconds_per_case": ("s per case", 1, 1),
}


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
