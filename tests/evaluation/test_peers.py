"""Agreement with other programs: pymeshmetrics, StarDist and nnU-Net (numbers in tests/golden), DeepMind (run here)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.evaluation.made_masks import blobs, cube
from tests.golden import make_evaluation
from umamba.evaluation.instances import match_instances
from umamba.evaluation.overlap import count_overlap
from umamba.evaluation.standard import score_semantic
from umamba.evaluation.surface import surface_distances
from umamba.raw.readers import read_label

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SCORES = json.loads((GOLDEN / "evaluation.json").read_text())
ARRAYS = np.load(GOLDEN / "evaluation.npz")


@pytest.fixture(scope="module")
def deepmind():
    """DeepMind's surface-distance 0.1 (PyPI), made to run on NumPy 2 and SciPy 1.15; its arithmetic is untouched."""
    metrics = pytest.importorskip("surface_distance.metrics")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "Inf", np.inf, raising=False)
        patch.setattr(ndimage, "filters", ndimage, raising=False)
        patch.setattr(ndimage, "morphology", ndimage, raising=False)
        # `np.array(sorted(zip(...)))` of the package, which NumPy takes as it is; the zip object it also made, not.
        patch.setattr(metrics, "_sort_distances_surfels", _sorted_pairs)
        yield metrics


def _sorted_pairs(distances, areas):
    pairs = np.array(sorted(zip(distances, areas, strict=True)))
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize(("shape", "spacing"), [((24, 30, 28), (3.0, 0.7, 0.9)), ((18, 18, 18), (1, 1, 1)),
                                                ((60, 50), (0.5, 1.25)), ((40, 40), (1, 1))])  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tree_cost", [0, 25, 10**9])  # always the tree, as usual, always the distance transform
def test_random_blobs_agree_with_deepmind(deepmind, shape, spacing, seed, tree_cost, monkeypatch):
    monkeypatch.setattr("umamba.evaluation.surface.TREE_COST", tree_cost)
    reference, prediction = blobs(seed, shape), blobs(seed + 100, shape, 0.2)
    theirs = deepmind.compute_surface_distances(reference, prediction, spacing)
    ours = surface_distances(reference, prediction, spacing)
    for tolerance in (0, 0.5, 1.0, 2.5):
        expected = deepmind.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.surface_dice(tolerance) == pytest.approx(expected, abs=1e-6)
    for percent in (50, 95, 100):
        expected = deepmind.compute_robust_hausdorff(theirs, percent)
        assert ours.robust_hausdorff(percent) == pytest.approx(expected, abs=1e-6)


def test_one_voxel_and_the_border(deepmind):
    for start in ((0, 0, 0), (2, 3, 1), (4, 5, 6)):
        reference, prediction = cube((5, 6, 7), start, (1, 1, 1)), cube((5, 6, 7), (0, 0, 0), (5, 6, 7))
        theirs = deepmind.compute_surface_distances(reference, prediction, (2, 1, 1))
        ours = surface_distances(reference, prediction, (2, 1, 1))
        assert surface_distances(reference, reference, (2, 1, 1)).surface_dice(0) == 1
        assert ours.surface_dice(2) == pytest.approx(deepmind.compute_surface_dice_at_tolerance(theirs, 2), abs=1e-6)
        assert ours.robust_hausdorff() == pytest.approx(deepmind.compute_robust_hausdorff(theirs, 95), abs=1e-6)


@pytest.mark.parametrize("name", sorted(SCORES["mesh"]))
def test_surfaces_agree_with_meshes_as_far_as_the_definitions_do(name):
    # The mesh library measures to the closest point of a triangle or line; DeepMind's definition, which this project
    # and the literature use, to the closest corner of the voxel grid. The two are within half a voxel's diagonal, and
    # NSD, which counts distances, agrees as far as distances do: 0.57 against 0.43 for discs at 2 px, where many lie
    # at exactly 2 px.
    theirs, (reference, prediction) = SCORES["mesh"][name], ARRAYS[name]
    slack = 0.5 * float(np.linalg.norm(theirs["spacing"]))
    ours = surface_distances(reference, prediction, theirs["spacing"])
    assert ours.robust_hausdorff(95) == pytest.approx(theirs["hd95"], abs=slack)
    compared = [(t, nsd) for t, nsd in zip(theirs["tolerances"], theirs["nsd"], strict=True) if t > slack]
    assert compared
    for tolerance, expected in compared:
        assert ours.surface_dice(tolerance - slack) <= expected <= ours.surface_dice(tolerance + slack)
    dice = count_overlap(reference.astype(int), prediction.astype(int), 2).dice(1)
    assert dice == pytest.approx(theirs["dsc"], abs=1e-9)


@pytest.mark.parametrize("name", sorted(SCORES["stardist"]))
def test_matching_agrees_with_stardist(name):
    assert_matches(SCORES["stardist"][name], *ARRAYS[name])


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(SCORES["nuclei"]))
def test_matching_of_real_nuclei_agrees_with_stardist(name, real_data):
    label, _ = read_label(real_data / "nuclei_dsb2018" / "instances" / name)
    assert_matches(SCORES["nuclei"][name], label[0], make_evaluation.altered_instances(label[0]))


def assert_matches(scores, reference, prediction):
    for threshold, theirs in scores.items():
        ours = match_instances(reference, prediction, float(threshold))
        counts = (ours.true_positives, ours.false_positives, ours.false_negatives)
        assert counts == (theirs["tp"], theirs["fp"], theirs["fn"]), threshold
        for key in ("precision", "recall", "f1", "panoptic_quality"):
            assert getattr(ours, key) == pytest.approx(theirs[key], abs=1e-6), (threshold, key)


@pytest.mark.data
@pytest.mark.parametrize("case", sorted(SCORES["nnunet"]))
def test_real_labels_agree_with_nnunet_and_deepmind(case, real_data, deepmind):
    path = real_data / "Dataset004_Hippocampus" / "labelsTr" / f"{case}.nii.gz"
    reference, geometry = read_label(path)
    prediction = make_evaluation.altered(reference)
    labels = {"anterior": 1, "posterior": 2}
    rows = score_semantic(reference, prediction, geometry.spacing, labels, {"anterior": 1.0, "posterior": 0.5})
    for row in rows:
        assert row["dsc"] == pytest.approx(SCORES["nnunet"][case][str(row["label"])], abs=1e-9)
        masks = (reference == row["label"], prediction == row["label"])
        theirs = deepmind.compute_surface_distances(*masks, geometry.spacing)
        nsd = deepmind.compute_surface_dice_at_tolerance(theirs, row["nsd_tolerance"])
        assert row["nsd"] == pytest.approx(nsd, abs=1e-6)
        assert row["hd95"] == pytest.approx(deepmind.compute_robust_hausdorff(theirs, 95), abs=1e-6)


@pytest.mark.data
def test_a_real_scan_agrees_with_deepmind(real_data, deepmind):
    label, geometry = read_label(next((real_data / "ct_abdomen_example").joinpath("labels").glob("example_ct.nii.gz")))
    reference = label[:, ::2, ::2]
    values = np.flatnonzero(np.bincount(reference.ravel())[1:] > 200)[:6] + 1
    spacing = (geometry.spacing[0], 2 * geometry.spacing[1], 2 * geometry.spacing[2])
    kept = np.where(np.isin(reference, values), reference, 0)
    labels = {f"organ {value}": int(value) for value in values}
    for row in score_semantic(kept, make_evaluation.altered(kept), spacing, labels, dict.fromkeys(labels, 2.0)):
        masks = (kept == row["label"], make_evaluation.altered(kept) == row["label"])
        theirs = deepmind.compute_surface_distances(*masks, spacing)
        assert row["nsd"] == pytest.approx(deepmind.compute_surface_dice_at_tolerance(theirs, 2.0), abs=1e-6)
        assert row["hd95"] == pytest.approx(deepmind.compute_robust_hausdorff(theirs, 95), abs=1e-6)
