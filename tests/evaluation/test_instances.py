"""Matching of instances: closed forms and laws; test_peers.py compares with StarDist."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from umamba.evaluation.instances import match_at_thresholds, match_instances
from umamba.evaluation.standard import score_instances


def grid_of_cells(side: int, size: int, shift: int = 0) -> np.ndarray:
    """side x side squares of size x size pixels with gaps of the same size, moved to the right by `shift`."""
    label = np.zeros((2 * size * side, 2 * size * side + size), np.int32)
    for index in range(side * side):
        y, x = 2 * size * (index // side), 2 * size * (index % side) + shift
        label[y : y + size, x : x + size] = index + 1
    return label


def test_a_shift_has_the_iou_of_its_overlap():
    # Squares of 10 moved by 2: IoU 8 / 12.
    found = match_instances(grid_of_cells(3, 10), grid_of_cells(3, 10, 2), 2 / 3)
    assert (found.true_positives, found.false_positives, found.false_negatives) == (9, 0, 0)
    assert found.f1 == 1 and found.panoptic_quality == pytest.approx(2 / 3)
    missed = match_instances(grid_of_cells(3, 10), grid_of_cells(3, 10, 2), 0.667)
    assert (missed.true_positives, missed.f1, missed.precision, missed.recall) == (0, 0, 0, 0)
    row = score_instances(grid_of_cells(3, 10), grid_of_cells(3, 10, 2))[0]
    assert row["f1_50_95"] == pytest.approx(4 / 10)  # 0.5, 0.55, 0.6, 0.65


def test_empty_images():
    empty, cells = np.zeros((30, 30), np.int32), grid_of_cells(2, 5)[:30, :30]
    both = score_instances(empty, empty)[0]
    assert all(math.isnan(both[k]) for k in ("f1", "f1_50_95", "precision", "recall", "panoptic_quality"))
    cells = np.pad(grid_of_cells(2, 5), ((0, 10), (0, 5)))
    empty = np.zeros_like(cells)
    nothing_predicted, nothing_there = match_instances(cells, empty), match_instances(empty, cells)
    assert (nothing_predicted.false_negatives, nothing_predicted.f1, nothing_predicted.recall) == (4, 0, 0)
    assert (nothing_there.false_positives, nothing_there.f1, nothing_there.precision) == (4, 0, 0)


def test_large_and_sparse_ids_are_ids_like_others():
    reference = np.zeros((10, 10), np.int64)
    reference[2:5, 2:5], reference[6:9, 6:9] = 2**31 + 5, 7
    assert match_instances(reference, (reference > 0) * 3, 0.6).true_positives == 0
    assert match_instances(reference, reference).f1 == 1


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_the_matching_is_the_best_assignment(seed, threshold):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, (2, 6, 6)).repeat(3, axis=1).repeat(3, axis=2)
    reference, prediction = coarse[0], np.where(rng.random((18, 18)) < 0.8, coarse[0], coarse[1])
    ids_ref, ids_pred = (np.unique(x[x > 0]) for x in (reference, prediction))
    iou = np.array(
        [[np.sum((reference == a) & (prediction == b)) / np.sum((reference == a) | (prediction == b)) for b in ids_pred]
         for a in ids_ref]
    ).reshape(len(ids_ref), len(ids_pred))  # fmt: skip
    # Exhaustive over all pairs, as StarDist: most pairs first, then most IoU.
    gain = np.where(iou >= threshold, 1000 + iou, 0)
    chosen = gain[linear_sum_assignment(-gain)]
    ours = match_instances(reference, prediction, threshold)
    assert ours.true_positives == (chosen > 0).sum()
    assert ours.iou_sum == pytest.approx((chosen[chosen > 0] - 1000).sum())
    assert ours.false_negatives == len(ids_ref) - ours.true_positives
    swapped = match_instances(prediction, reference, threshold)
    assert (swapped.true_positives, swapped.false_positives) == (ours.true_positives, ours.false_negatives)


def test_a_thousand_cells_take_less_than_a_second():
    reference, prediction = grid_of_cells(32, 16), grid_of_cells(32, 16, 3)
    started = time.process_time()
    assert score_instances(reference, prediction)[0]["true_positives"] == 1024
    assert time.process_time() - started < 1


def test_bad_input_is_named():
    cells = grid_of_cells(2, 5)
    with pytest.raises(ValueError, match=r"shape \(19, 25\), the reference \(20, 25\)"):
        match_instances(cells, cells[1:])
    with pytest.raises(ValueError, match="negative"):
        match_instances(cells - 1, cells)
    with pytest.raises(ValueError, match=r"in \(0, 1\], got \(0.5, 1.5\)"):
        match_at_thresholds(cells, cells, (0.5, 1.5))
