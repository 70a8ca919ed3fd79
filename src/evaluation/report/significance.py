"""Is one network better than another? Paired tests over cases, confidence intervals, ranks.

Scores of several seeds are averaged per case first: seeds of one case are no independent samples.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 9999  # of the bootstrap
LEVEL = 0.95


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979): p-values adjusted for all of them being tested. NaN stays NaN."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval (percentile) of the mean; NaN for fewer than two values."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return math.nan, math.nan
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def compare_networks(table: pd.DataFrame) -> pd.DataFrame:
    """Wilcoxon signed-rank tests between all pairs of networks, Holm-corrected over the pairs.

    Args:
        table: One row per case, or per case and class (the case is the first level of the index), one column per
            network. A pair is compared on the rows that both have a score in, averaged by case.

    Returns:
        One row per pair: network, other, cases, difference (mean of network - other), low and high (95 % bootstrap
        interval of it), p (two-sided; NaN where fewer than two cases differ) and p_holm.
    """
    rows = []
    for network, other in combinations(table.columns, 2):
        both = in_common(table[[network, other]])
        difference = (both[network] - both[other]).to_numpy()
        low, high = bootstrap_mean(difference)
        p = stats.wilcoxon(difference).pvalue if np.count_nonzero(difference) >= 2 else math.nan
        mean = difference.mean() if len(difference) else math.nan
        rows.append({"network": network, "other": other, "cases": len(both), "difference": mean,
                     "low": low, "high": high, "p": float(p)})  # fmt: skip
    columns = ["network", "other", "cases", "difference", "low", "high", "p"]
    compared = pd.DataFrame(rows, columns=columns)
    return compared.assign(p_holm=holm(compared["p"].to_numpy()))


def in_common(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that all networks of a table have a score in, averaged by case (the first level of the index)."""
    return table.dropna().groupby(level=0, sort=False).mean()


def mean_ranks(table: pd.DataFrame, *, lower_is_better: bool = False) -> pd.Series:
    """Mean rank of each network over the cases; 1 is best, ties share their ranks.

    Args:
        table: As of `compare_networks`; the rows count that all networks have a score in.
        lower_is_better: As of a distance.
    """
    return in_common(table).rank(axis=1, ascending=lower_is_better).mean().sort_values()


def critical_difference(num_networks: int, num_cases: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 % (Demsar, JMLR 2006, section 3.2.2).

    Raises:
        ValueError: Fewer than two networks, or no case.
    """
    if num_networks < 2 or num_cases < 1:
        raise ValueError(f"Ranks need two networks and a case, there are {num_networks} and {num_cases}.")
    q = stats.studentized_range.ppf(LEVEL, num_networks, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(num_networks * (num_networks + 1) / (6 * num_cases)))
