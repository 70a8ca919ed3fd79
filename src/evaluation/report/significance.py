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


def compare_networks(by_case: pd.DataFrame) -> pd.DataFrame:
    """Wilcoxon signed-rank tests between all pairs of networks, Holm-corrected over the pairs.

    Args:
        by_case: One row per case, one column per network, higher is better. A pair is compared on the cases that both
            have a score for.

    Returns:
        One row per pair: network, other, cases, difference (mean of network - other), low and high (95 % bootstrap
        interval of it), p (two-sided; NaN where fewer than two cases differ) and p_holm.
    """
    rows = []
    for network, other in combinations(by_case.columns, 2):
        both = by_case[[network, other]].dropna()
        difference = (both[network] - both[other]).to_numpy()
        low, high = bootstrap_mean(difference)
        p = stats.wilcoxon(difference).pvalue if np.count_nonzero(difference) >= 2 else math.nan
        mean = difference.mean() if len(difference) else math.nan
        rows.append({"network": network, "other": other, "cases": len(both), "difference": mean,
                     "low": low, "high": high, "p": float(p)})  # fmt: skip
    columns = ["network", "other", "cases", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def mean_ranks(by_case: pd.DataFrame) -> pd.Series:
    """Mean rank of each network over the cases that all have a score for; 1 is best, ties share their ranks."""
    return by_case.dropna().rank(axis=1, ascending=False).mean().sort_values()


def critical_difference(num_networks: int, num_cases: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 % (Demsar, JMLR 2006, section 3.2.2).

    Raises:
        ValueError: Fewer than two networks, or no case.
    """
    if num_networks < 2 or num_cases < 1:
        raise ValueError(f"Ranks need two networks and a case, there are {num_networks} and {num_cases}.")
    q = stats.studentized_range.ppf(LEVEL, num_networks, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(num_networks * (num_networks + 1) / (6 * num_cases)))
