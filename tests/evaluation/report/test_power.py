"""What no test can show is computed from the numbers, and said as long as it is so."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from umamba.evaluation.report.power import can_be_significant, coverage, doubts_of_ranks, doubts_of_tests
from umamba.evaluation.report.significance import compare_networks, critical_difference


@pytest.mark.parametrize("networks", range(2, 12))
def test_ranks_are_said_to_be_without_power_until_there_are_enough(networks: int) -> None:
    for rows in range(1, 12):
        said = doubts_of_ranks(networks, rows, "data set")
        assert bool(said) == (critical_difference(networks, rows) >= networks - 1)
        if said:
            enough = int(said.rsplit("at least ", 1)[1].split()[0])
            assert critical_difference(networks, enough) < networks - 1 <= critical_difference(networks, enough - 1)


@pytest.mark.parametrize("cases", range(3, 12))
def test_the_least_p_is_that_of_differences_of_one_sign(cases: int) -> None:
    table = pd.DataFrame({"a": np.arange(1.0, cases + 1), "b": 0.0})
    p = compare_networks(table)["p"].iloc[0]
    assert p == pytest.approx(2 / 2**cases)
    assert can_be_significant(cases, 1) == (p <= 0.05) and can_be_significant(cases, 3) == (3 * p <= 0.05)


def test_intervals_of_few_cases_are_as_narrow_as_is_said() -> None:
    random = np.random.default_rng(0)
    for cases in (2, 3, 4, 9):
        scores = random.normal(size=(1000, cases))
        means = scores[:, random.integers(0, cases, (1000, cases))].mean(axis=2)
        low, high = np.quantile(means, [0.025, 0.975], axis=1)
        assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(coverage(cases), abs=0.05), cases
    assert math.isclose(coverage(10_000), 0.95, abs_tol=1e-3)
    assert "too narrow" in doubts_of_tests(9, 1)[0] and doubts_of_tests(10, 1) == []
