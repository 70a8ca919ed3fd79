"""Is one network better than another? Paired tests over cases, confidence intervals, ranks.

Scores of several seeds are averaged per case first: seeds of one case are no independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 9999  # of the bootstrap
LEVEL = 0.95
SIGNIFICANT = 0.05  # p-values corrected by Holm, below
_DIGITS = 9  # in which scores count as equal: means of the same numbers differ in the 16th by the order of their sums


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
    """95 % interval of the mean by the percentile bootstrap (Efron, 1979) with 9999 resamples.

    Args:
        values: (n,) float, one score a case; NaN are left out.
        seed: Of the resampling: the same seed gives the same interval.

    Returns:
        Its lower and its upper end; NaN both for fewer than two values.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return math.nan, math.nan
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def false_claim(scores: np.ndarray, others: np.ndarray) -> float:
    """Probability that "the first is better than the other" is false, given the scores of both on the same cases.

    Claims Reloaded (arXiv 2505.04720): P(mu_A <= mu_B) = t_{n-1}(sqrt(n) (m_B - m_A) / sqrt(s_A^2 + s_B^2 - 2 s_A s_B
    r_AB)), with t_{n-1} the distribution function of Student's t, m the means, s the standard deviations and r the
    correlation over the cases: that of the mean of the paired differences under a flat prior.

    Args:
        scores: (n,) of the cases; higher is better.
        others: Of the other on the same cases, in the same order.

    Returns:
        0 to 1; where every case differs by the same, 0, 1, or 0.5 for no difference; NaN for fewer than two cases.
    """
    scores, others = np.asarray(scores, dtype=float), np.asarray(others, dtype=float)
    if len(scores) < 2:
        return math.nan
    # s_A^2 + s_B^2 - 2 s_A s_B r_AB is the variance of the differences.
    difference = others - scores
    mean, spread = difference.mean(), difference.std(ddof=1)
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 0.5 if mean == 0 else float(mean > 0)
    return float(stats.t.cdf(math.sqrt(len(difference)) * mean / spread, len(difference) - 1))


def compare_networks(
    table: pd.DataFrame, references: Sequence[str] | None = None, *, lower_is_better: bool = False
) -> pd.DataFrame:
    """Wilcoxon signed-rank tests between pairs of networks, Holm-corrected over the pairs.

    Args:
        table: One row per case, or per case and class (the case is the first level of the index), one column per
            network. A pair is compared on the rows that both have a score in, averaged by case.
        references: Compare every network with each of these alone; None takes all pairs.
        lower_is_better: Whether smaller values are better, as those of a distance.

    Returns:
        One row per pair: network, other, cases, difference (mean of network - other), low and high (95 % bootstrap
        interval of it), p (two-sided; NaN where fewer than two cases differ), p_false (that
        network is better, see `false_claim`) and p_holm.
    """
    if references is None:
        pairs = list(combinations(table.columns, 2))
    else:
        present = [name for name in references if name in table.columns]
        pairs = [  # two references are compared once
            (name, other)
            for index, other in enumerate(present)
            for name in table.columns
            if name not in present[: index + 1]
        ]
    rows = []
    for network, other in pairs:
        both = in_common(table[[network, other]])
        difference = (both[network] - both[other]).to_numpy()
        low, high = bootstrap_mean(difference)
        ranked = _with_ties(difference, both)
        p = stats.wilcoxon(ranked).pvalue if np.count_nonzero(ranked) >= 2 else math.nan
        mean = difference.mean() if len(difference) else math.nan
        better = [(-1 if lower_is_better else 1) * both[name].to_numpy() for name in (network, other)]
        rows.append({"network": network, "other": other, "cases": len(both), "difference": mean,
                     "low": low, "high": high, "p": float(p), "p_false": false_claim(*better)})  # fmt: skip
    columns = ["network", "other", "cases", "difference", "low", "high", "p", "p_false"]
    compared = pd.DataFrame(rows, columns=columns)
    return compared.assign(p_holm=holm(compared["p"].to_numpy()))


def pair_of(compared: pd.DataFrame, network: str, other: str) -> dict[str, Any] | None:
    """The row of `compare_networks` of two networks, in this direction whichever it was made in; None without one."""
    forward = compared[(compared["network"] == network) & (compared["other"] == other)].to_dict("records")
    if forward:
        return {str(key): value for key, value in forward[0].items()}
    backward = compared[(compared["network"] == other) & (compared["other"] == network)].to_dict("records")
    if not backward:
        return None
    row = {str(key): value for key, value in backward[0].items()}
    turned = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"], "p_false": 1 - row["p_false"]}
    return row | {"network": network, "other": other} | turned


def in_common(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that all networks of a table have a score in, averaged by case (the first level of the index)."""
    return table.dropna().groupby(level=0, sort=False).mean()


def mean_ranks(table: pd.DataFrame, *, lower_is_better: bool = False) -> pd.Series:
    """Mean rank of each network over the cases; 1 is best, ties share their ranks.

    Args:
        table: As of `compare_networks`; the rows count that all networks have a score in.
        lower_is_better: Whether smaller values are better, as those of a distance.
    """
    common = in_common(table)
    ranks = pd.DataFrame(_with_ties(common.to_numpy(), common), common.index, common.columns)
    return ranks.rank(axis=1, ascending=lower_is_better).mean().sort_values()


def critical_difference(num_networks: int, num_cases: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 % (Demsar, JMLR 2006, section 3.2.2).

    Raises:
        ValueError: Fewer than two networks, or no case.
    """
    if num_networks < 2 or num_cases < 1:
        raise ValueError(f"Ranks need two networks and a case, there are {num_networks} and {num_cases}.")
    q = stats.studentized_range.ppf(LEVEL, num_networks, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(num_networks * (num_networks + 1) / (6 * num_cases)))


def _with_ties(values: np.ndarray, scores: pd.DataFrame) -> np.ndarray:
    """Values made of some scores as they are ranked, on their scale: what differs by round-off alone is equal."""
    largest = np.abs(scores.to_numpy()).max(initial=0.0)
    return np.round(values / largest, _DIGITS) if largest > 0 else values
