"""Cell instances as three classes and back, and images of any microscope as 8-bit RGB.

The conversion of the NeurIPS 2022 Cell Segmentation Challenge's baseline, which U-Mamba trained on (arXiv 2401.04722,
section 4.1): 0 background, 1 interior, 2 boundary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.exposure import rescale_intensity
from skimage.segmentation import expand_labels, find_boundaries

from src.planning.pictures import write_picture
from src.planning.raw import DatasetError

CLASSES = ("interior", "boundary")
MIN_INTERIOR = 16  # px: smaller interiors are dropped, their boundary stays
CROSS = ndimage.generate_binary_structure(2, 1)  # 4 neighbours: a disk of radius 1
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


def classes_to_instances(classes: np.ndarray, *, grow: bool = False) -> np.ndarray:
    """Instances of a three-class map: the 8-connected parts of the interior, as the paper counts them.

    Args:
        classes: (H, W) integers: 0 background, 1 interior, 2 boundary.
        grow: give each instance the boundary pixels within two pixels of it: what `instances_to_classes` took away.
            Not in the paper; raises the overlap of small cells.

    Returns:
        (H, W) int32: 0 background, 1, 2, ... the instances.
    """
    instances, _ = ndimage.label(classes == 1, SQUARE)
    if grow:
        grown = expand_labels(instances, distance=2)
        instances = np.where((instances == 0) & (classes == 2), grown, instances)
    return instances.astype(np.int32)


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """An image of any depth as 8-bit RGB, each channel stretched from its non-zero percentiles 1..99.

    A channel without contrast (percentiles within 0.001) is cast as it is, an all-zero one stays zero.

    Args:
        image: (H, W) grey, which becomes three equal channels, or (H, W, C): the first three are taken, missing
            ones are zero.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: `image` is neither.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3:
        raise ValueError(f"expected an image (H, W) or (H, W, C), got shape {image.shape}")
    rgb = np.zeros((*image.shape[:2], 3), np.uint8)
    for channel in range(min(3, image.shape[2])):
        values = image[..., channel]
        seen = values[values != 0]
        if seen.size == 0:
            continue
        low, high = np.percentile(seen, [1, 99])
        if high - low > 0.001:
            values = rescale_intensity(values, in_range=(low, high), out_range="uint8")
        rgb[..., channel] = values.astype(np.uint8)
    return rgb


def write_cells(folder: Path, split: str, name: str, rgb: np.ndarray, instances: np.ndarray | None) -> None:
    """Write one case of an instance data set: image, three-class label and instance map.

    Args:
        folder: raw data set.
        split: "Tr" or "Ts".
        rgb: (H, W, 3) uint8.
        instances: (H, W) integers, or None for a test image whose instances are not known.

    Raises:
        DatasetError: image and instances differ in size.
    """
    if instances is not None:
        if instances.shape != rgb.shape[:2]:
            raise DatasetError(f"{name}: the image is {rgb.shape[:2]} px, its instance map {instances.shape}")
        write_picture(instances.astype(np.int32), folder / f"instances{split}" / f"{name}.tif")
        write_picture(instances_to_classes(instances), folder / f"labels{split}" / f"{name}.png")
    # the image last: a case whose image is there is complete
    write_picture(rgb, folder / f"images{split}" / f"{name}_0000.png")
