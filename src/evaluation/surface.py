"""Distances between the surfaces of two masks, and the scores made of them: NSD and HD95.

The definition is DeepMind's (Nikolov et al., arXiv 1809.04430, section "Surface Dice"): surface elements sit at the
corners between voxels; the 2^d voxels around a corner decide, by a table, the area (3D) or the contour length (2D)
of the element; a mask that touches the border of the image is closed there. The tables are MONAI's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

# A search in a tree takes as long as about 25 voxels of a distance transform (5 against 0.2 microseconds on one core).
# The tree wins where surfaces are thin in their box, and by far where one stray voxel makes the box the whole scan; the
# transform wins where a prediction is all over the scan.
TREE_COST = 25


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """Surface elements of a reference and a prediction.

    Attributes:
        reference_to_prediction: (n,) float64, distance of each reference element to the closest predicted one, in
            the unit of the spacing; infinite if there is no predicted element.
        reference_areas: (n,) float64, area (3D) or length (2D) of these elements.
        prediction_to_reference: (m,) float64, the other way round.
        prediction_areas: (m,) float64.
    """

    reference_to_prediction: np.ndarray
    reference_areas: np.ndarray
    prediction_to_reference: np.ndarray
    prediction_areas: np.ndarray

    def surface_dice(self, tolerance: float) -> float:
        """Normalised surface Dice (NSD): the share of both surfaces that is near the other (arXiv 1809.04430).

        Args:
            tolerance: What is near, in the unit of the spacing; a distance of exactly that counts.

        Returns:
            0 to 1; NaN if neither mask has a surface.
        """
        total = self.reference_areas.sum() + self.prediction_areas.sum()
        if total == 0:
            return math.nan
        close = self.reference_areas[self.reference_to_prediction <= tolerance].sum()
        close += self.prediction_areas[self.prediction_to_reference <= tolerance].sum()
        return float(close / total)

    def robust_hausdorff(self, percent: float = 95.0) -> float:
        """The area-weighted percentile of the distances (HD95 at 95), the larger of both directions.

        Args:
            percent: Which percentile, above 0 and up to 100.

        Returns:
            A distance in the unit of the spacing; infinite if a mask is empty.
        """
        return max(
            _weighted_percentile(self.reference_to_prediction, self.reference_areas, percent),
            _weighted_percentile(self.prediction_to_reference, self.prediction_areas, percent),
        )


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Args:
        reference: (H, W) or (D, H, W) bool. Crop it to the object beforehand: time and memory go with the size.
        prediction: Bool, of the same shape.
        spacing: Size of a voxel along each axis, usually in mm, in the axis order of the masks.

    Returns:
        The distances between both surfaces, in the unit of `spacing`.

    Raises:
        ValueError: The masks are not 2D or 3D, or shapes and spacing do not agree.
    """
    if reference.shape != prediction.shape or reference.ndim != len(spacing) or reference.ndim not in (2, 3):
        raise ValueError(
            f"Expected two masks of one shape, 2D or 3D, with a spacing per axis; got reference {reference.shape}, "
            f"prediction {prediction.shape}, spacing {tuple(spacing)}."
        )
    spacing = tuple(float(s) for s in spacing)
    corners_ref, areas_ref = _surface_elements(reference, spacing)
    corners_pred, areas_pred = _surface_elements(prediction, spacing)
    grid = tuple(n + 1 for n in reference.shape)
    return SurfaceDistances(
        reference_to_prediction=_distances(corners_ref, corners_pred, grid, spacing),
        reference_areas=areas_ref,
        prediction_to_reference=_distances(corners_pred, corners_ref, grid, spacing),
        prediction_areas=areas_pred,
    )


@lru_cache(maxsize=256)
def _area_table(spacing: tuple[float, ...]) -> np.ndarray:
    """(2 ** (2 ** d),) float64: area of the surface element for each neighbourhood code."""
    from monai.metrics.utils import get_code_to_measure_table  # 2 s to import: only where a surface is measured

    table, _ = get_code_to_measure_table(spacing)
    return table.numpy().astype(np.float64)


def _surface_elements(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n,), as flat indices into the grid of all corners, and areas (n,) of a mask's surface elements."""
    padded = np.pad(mask, 1).view(np.uint8)
    code = np.zeros([n + 1 for n in mask.shape], dtype=np.uint8)
    corners = 2**mask.ndim
    for bit in range(corners):
        # DeepMind's code: the highest bit is the first voxel of the neighbourhood in C order.
        offset = np.unravel_index(corners - 1 - bit, (2,) * mask.ndim)
        window = padded[tuple(slice(o, o + n + 1) for o, n in zip(offset, mask.shape, strict=True))]
        code |= window << np.uint8(bit)
    flat = np.flatnonzero((code != 0) & (code != 2**corners - 1))
    return flat, _area_table(spacing)[code.ravel()[flat]]


def _distances(
    corners: np.ndarray, targets: np.ndarray, grid: tuple[int, ...], spacing: tuple[float, ...]
) -> np.ndarray:
    """Distance of each corner to the closest target, by a tree for a few corners or a transform of the whole grid."""
    distances = np.zeros(len(corners))
    if len(targets) == 0:
        return distances + math.inf
    is_target = np.zeros(math.prod(grid), dtype=bool)
    is_target[targets] = True
    apart = ~is_target[corners]
    if np.count_nonzero(apart) * TREE_COST > is_target.size:
        nearby = distance_transform_edt(~is_target.reshape(grid), sampling=spacing)
        distances = nearby.ravel()[corners]
    elif apart.any():
        goal = np.stack(np.unravel_index(targets, grid), axis=1)
        tree = cKDTree(goal * spacing, leafsize=32, balanced_tree=False, compact_nodes=False)
        start = np.stack(np.unravel_index(corners[apart], grid), axis=1)
        _, nearest = tree.query(start * spacing)
        # From whole steps, not from the tree's rounded coordinates: a shift by exactly the tolerance must count.
        distances[apart] = np.sqrt((((start - goal[nearest]) * spacing) ** 2).sum(axis=1))
    return distances


def _weighted_percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    if len(distances) == 0:
        return math.inf
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order])
    index = int(np.searchsorted(share / share[-1], percent / 100))
    return float(distances[order[min(index, len(order) - 1)]])
