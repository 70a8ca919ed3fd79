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

from umamba.words import count

RESAMPLES = 9999  # of the bootstrap
LEVEL = 0.95
SIGNIFICANT = 0.05  # p-values corrected by Holm, below
_DIGITS = 9  # in which scores count as equal: means of the same numbers differ in the 16th by the order of their sums
_POOR = 0.9  # intervals that hold less of what they are to hold are said to be too narrow


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


def can_be_significant(cases: int, comparisons: int) -> bool:
    """Whether Wilcoxon's two-sided test can be below 5 % after Holm's correction, if all differences have one sign."""
    return _least_p(cases) * comparisons <= SIGNIFICANT


def doubts_of_tests(cases: int, comparisons: int) -> list[str]:
    """What pairwise tests and intervals over so few cases cannot show; nothing where there are enough.

    Args:
        cases: That the two networks which have most in common were compared on.
        comparisons: That p is corrected for.
    """
    counted = count(cases, "case")
    said = []
    if not can_be_significant(cases, comparisons):
        least = _least_p(cases)
        given = f"With {counted} no Wilcoxon test can give less than p = {least:.3g}"
        if comparisons > 1:
            given += f", and {min(1.0, least * comparisons):.2g} after correction for {comparisons} comparisons"
        said.append(f"{given}: nothing here could be significant, whatever the networks do.")
    if cases > 1 and coverage(cases) < _POOR:
        said.append(
            f"Intervals over {counted} are too narrow: those called 95 % contain the true mean in only about "
            f"{100 * coverage(cases):.0f} % of samples if scores are normal, and in fewer if they are not."
        )
    return said


def doubts_of_ranks(networks: int, rows: int, called: str) -> str:
    """What to say where no two networks' mean ranks can be further apart than the critical difference; else ""."""
    critical, furthest = critical_difference(networks, rows), networks - 1
    if critical < furthest:
        return ""
    enough = math.floor((critical / furthest) ** 2 * rows) + 1  # the critical difference falls with their square root
    return (
        f"With {count(rows, called)} this test can find nothing, whatever the networks do: mean ranks of "
        f"{networks} networks are at most {furthest} apart, and it asks for more than {critical:.2f}. It takes at "
        f"least {enough} {called}s."
    )


def coverage(cases: int) -> float:
    """About how often a 95 % percentile-bootstrap interval of a mean holds it, if scores are normal, of two and more.

    2 F(z sqrt((n - 1) / n)) - 1: the bootstrap's spread is that of the n scores without Bessel's correction, and its
    quantiles are near the normal z, where Student's t of n - 1 degrees of freedom (F) is due. An interval never reaches
    beyond the least and the largest score, which hold the median between them in 1 - 2 / 2^n.
    """
    z = stats.norm.ppf((1 + LEVEL) / 2)
    return min(float(2 * stats.t.cdf(z * math.sqrt((cases - 1) / cases), cases - 1) - 1), 1 - _least_p(cases))


def _least_p(cases: int) -> float:
    return float(min(1.0, 2 / 2**cases))
