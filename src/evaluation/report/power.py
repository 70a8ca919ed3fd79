"""What no test could show with so few cases, data sets or networks, in words: "not significant" says nothing there."""

from __future__ import annotations

import math

from scipy import stats

from umamba.evaluation.report.significance import LEVEL, SIGNIFICANT, critical_difference
from umamba.words import count

_POOR = 0.9  # intervals that hold less of what they are to hold are said to be too narrow


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
