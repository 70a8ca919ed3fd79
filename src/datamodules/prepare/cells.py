"""Images of any microscope as 8-bit RGB, and the files of a case with instances.

As the NeurIPS 2022 Cell Segmentation Challenge's baseline does it, which U-Mamba trained on (arXiv 2401.04722, section
4.1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from skimage.exposure import rescale_intensity

from umamba.raw.description import DatasetError
from umamba.raw.instances import instances_to_classes
from umamba.raw.pictures import write_picture


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """An image of any depth as 8-bit RGB, each channel stretched from its non-zero percentiles 1..99 (else ValueError).

    A channel without contrast (percentiles within 0.001) is cast as it is, an all-zero one stays zero.

    Args:
        image: (H, W) grey, which becomes three equal channels, or (H, W, C): the first three are taken, missing
            ones are zero.

    Returns:
        (H, W, 3) uint8.
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
    """Write one case of an instance data set: image, three-class label and instance map (else DatasetError).

    Args:
        folder: raw data set.
        split: "Tr" or "Ts".
        name: of the case.
        rgb: (H, W, 3) uint8.
        instances: (H, W) integers, or None for a test image whose instances are not known.
    """
    if instances is not None:
        if instances.shape != rgb.shape[:2]:
            raise DatasetError(f"{name}: the image is {rgb.shape[:2]} px, its instance map {instances.shape}")
        write_picture(instances.astype(np.int32), folder / f"instances{split}" / f"{name}.tif")
        write_picture(instances_to_classes(instances), folder / f"labels{split}" / f"{name}.png")
    # the image last: a case whose image is there is complete
    write_picture(rgb, folder / f"images{split}" / f"{name}_0000.png")
