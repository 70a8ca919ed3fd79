"""Cell instances as three classes and back: 0 background, 1 interior, 2 boundary.

The conversion of the NeurIPS 2022 Cell Segmentation Challenge's baseline, which U-Mamba trained on (arXiv 2401.04722,
section 4.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from skimage.segmentation import expand_labels, find_boundaries

from umamba.typed import has_type

CLASSES = ("interior", "boundary")
MIN_INTERIOR = 16  # px: smaller interiors are dropped, their boundary stays
CROSS = ndimage.generate_binary_structure(2, 1)  # 4 neighbours: a disk of radius 1
DEPTH = 2  # px: what the boundary takes of a cell; what `grow=true` means
SQUARE = ndimage.generate_binary_structure(2, 2)  # 8 neighbours


def instances_to_classes(instances: np.ndarray) -> np.ndarray:
    """Three classes of an instance map.

    The boundary is the instances' inner boundary dilated by one pixel: it reaches two pixels into a cell and one
    into the background.

    Args:
        instances: (H, W) integers, 0 background, any other value one cell each.

    Returns:
        (H, W) uint8: 0 background, 1 interior, 2 boundary.
    """
    boundary = ndimage.binary_dilation(find_boundaries(instances, mode="inner"), CROSS)
    parts, _ = ndimage.label((instances > 0) & ~boundary, CROSS)
    large = np.bincount(parts.ravel()) >= MIN_INTERIOR
    large[0] = False  # the background
    classes = large[parts].astype(np.uint8)
    classes[boundary] = 2
    return classes


def classes_to_instances(classes: np.ndarray, *, grow: float = 0) -> np.ndarray:
    """Instances of a three-class map: the 8-connected parts of the interior, as the paper counts them.

    Args:
        classes: (H, W) integers: 0 background, 1 interior, 2 boundary.
        grow: px: give each instance the boundary pixels within this distance of it. Two are what
            `instances_to_classes` took away. Not in the paper; raises the overlap of small cells.

    Returns:
        (H, W) int32: 0 background, 1, 2, ... the instances.
    """
    instances, _ = ndimage.label(classes == 1, SQUARE)
    distance = grow_pixels(grow)
    if distance:
        grown = expand_labels(instances, distance=distance)
        instances = np.where((instances == 0) & (classes == 2), grown, instances)
    return instances.astype(np.int32)


def grow_pixels(grow: Any) -> float:
    """How far instances are grown, as one number has it: true and false are of the time when it was a switch.

    Args:
        grow: px, 0 or more; true for `DEPTH`, false for 0.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(grow, bool):
        return DEPTH if grow else 0
    if not has_type(grow, float) or grow < 0:
        raise ValueError(f"grow is {grow!r}; expected a number of pixels, 0 or more (0 grows nothing).")
    return int(grow) if grow == int(grow) else grow
