"""Tests of significance against worked examples."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umamba.evaluation.report.significance import (
    bootstrap_mean,
    compare_networks,
    critical_difference,
    holm,
    mean_ranks,
)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, never falling.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm(np.array([0.02, math.nan, 0.9]))
    assert adjusted[0] == pytest.approx(0.04) and math.isnan(adjusted[1]) and adjusted[2] == 0.9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_raises_and_keeps_the_order(values):
    adjusted = holm(np.array(values))
    assert (adjusted >= np.array(values)).all() and (adjusted <= 1).all()
    order = np.argsort(values)
    assert (np.diff(adjusted[order]) >= 0).all()


def test_wilcoxon_of_a_constant_gain():
    # All n = 6 signed ranks are positive: two-sided exact p = 2 / 2^6.
    worse = pd.Series([0.5, 0.55, 0.6, 0.62, 0.7, 0.71])
    gains = pd.Series([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    row = compare_networks(pd.DataFrame({"a": worse + gains, "b": worse})).iloc[0]
    assert row["p"] == pytest.approx(2 / 2**6) and row["p_holm"] == row["p"]
    assert row["difference"] == pytest.approx(gains.mean())
    assert row["low"] < gains.mean() < row["high"] and row["low"] > 0.01


def test_equal_differences_are_ties_whatever_their_last_bits_are():
    # In units of a third; 1 - 2/3 and 2/3 - 1/3 differ in the last bit. 5 of 6 signed ranks of 3.5 are positive.
    thirds = pd.DataFrame({"a": [1, 2, 3, 1, 3, 1, 2], "b": [0, 1, 2, 2, 2, 0, 2]})
    compared = compare_networks(thirds / 3).iloc[0]
    assert compared["p"] == compare_networks(thirds).iloc[0]["p"] == pytest.approx(14 / 64)  # 2 P(5 or more of 6)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 250.0])
def test_scores_that_differ_by_round_off_share_a_rank_and_no_test_counts_them(scale):
    table = scale * pd.DataFrame({"a": [0.1 + 0.2, 0.7, 0.9, 0.5], "b": [0.3, 0.7, 0.8, 0.5]})
    assert mean_ranks(table).to_dict() == {"a": (1.5 + 1.5 + 1 + 1.5) / 4, "b": (1.5 + 1.5 + 2 + 1.5) / 4}
    assert math.isnan(compare_networks(table).iloc[0]["p"])  # one case differs
    assert mean_ranks(0 * table).tolist() == [1.5, 1.5]


def test_pairs_use_the_cases_that_both_have():
    table = pd.DataFrame({"a": [0.9, 0.8, math.nan], "b": [0.8, 0.8, 0.1], "c": [math.nan] * 3})
    compared = compare_networks(table).set_index(["network", "other"])
    assert compared.loc[("a", "b"), "cases"] == 2 and math.isnan(compared.loc[("a", "b"), "p"])
    assert compared.loc[("a", "c"), "cases"] == 0 and math.isnan(compared.loc[("a", "c"), "difference"])


def test_the_bootstrap_interval_of_a_normal_mean():
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    low, high = bootstrap_mean(values)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.1 / 20, values.mean() + 1.96 * 0.1 / 20), abs=2e-3)
    assert all(map(math.isnan, bootstrap_mean(np.array([0.5]))))


def test_ranks_share_ties():
    table = pd.DataFrame({"a": [0.9, 0.8], "b": [0.9, 0.7], "c": [0.1, 0.95]})
    assert mean_ranks(table).to_dict() == {"a": 1.75, "c": 2.0, "b": 2.25}


def test_critical_difference_of_demsar():
    # Demsar 2006, section 3.2.2: q = 2.569 for four classifiers, 14 data sets: CD = 1.25.
    assert critical_difference(4, 14) == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    with pytest.raises(ValueError, match="two networks"):
        critical_difference(1, 10)
