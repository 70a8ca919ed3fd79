"""Counted samples against numpy's statistics of the samples themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from umamba.planning.intensities import draw, order_statistic, statistics


@pytest.mark.parametrize("num_samples", [1, 1000, 3_000_000])
def test_draw_is_numpys_choice(num_samples):
    values = np.random.default_rng(0).integers(-40, 40, 5000).astype(np.float32)
    ours, reference = np.random.RandomState(1234), np.random.RandomState(1234)
    sample = draw(values, num_samples, ours)
    distinct, counts = np.unique(reference.choice(values, num_samples, replace=True), return_counts=True)
    np.testing.assert_array_equal(sample.values, distinct)
    np.testing.assert_array_equal(sample.counts, counts)
    assert ours.randint(1 << 30) == reference.randint(1 << 30)  # the next channel goes on from the same state


@settings(max_examples=60, deadline=None)
@given(
    cases=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=20), min_size=1, max_size=4).filter(any),
    num_samples=st.integers(1, 200),
)
@example(cases=[[0.0, 1.1754943508222875e-38]], num_samples=3)
@example(cases=[[-3e30, 2e30], [1e30]], num_samples=5)
def test_statistics_are_those_of_the_pooled_samples(cases, num_samples):
    arrays = [np.array(case, dtype=np.float32) for case in cases]
    samples = [draw(array, num_samples, np.random.RandomState(1234)) for array in arrays]
    pooled = np.concatenate(
        [np.random.RandomState(1234).choice(array, num_samples) for array in arrays if array.size]
    ).astype(np.float64)
    low, median, high = np.percentile(pooled, (0.5, 50, 99.5))
    expected = (pooled.mean(), median, pooled.std(), pooled.min(), pooled.max(), low, high)
    scale = np.abs(pooled).max()
    # Deviations from the mean are float32
    np.testing.assert_allclose(dataclasses.astuple(statistics(samples)), expected, rtol=4e-6, atol=1e-9 * scale)
    for rank in (0, len(pooled) // 2, len(pooled) - 1):
        assert order_statistic(samples, rank) == np.sort(pooled)[rank]
