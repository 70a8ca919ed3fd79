"""Phantom cells: generated microscopy of touching cells with instance labels, the 2D counterpart of the phantom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, label

from umamba.datamodules.prepare.cells import write_cells
from umamba.datamodules.prepare.phantom import generate, smooth_noise
from umamba.raw.instances import CLASSES

SHAPE = (128, 128)  # px
NUM_CELLS = (10, 20)  # attempts per image
RADII = (8.5, 14.0)  # px, half axes: an interior alone, 2 px smaller, still overlaps its cell by half
MIN_SHARE = 0.6  # of a cell's area that others and the image's border leave free


def make_cells(seed: int, case: int) -> tuple[np.ndarray, np.ndarray]:
    """One image: stained cells (dark nucleus in a bright body, or the reverse) on an uneven background.

    Returns:
        image (H, W, 3) uint8, instances (H, W) int32.
    """
    rng = np.random.default_rng((seed, case))
    rows, columns = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    rows = rows + 1.2 * smooth_noise(rng, SHAPE, 6)
    columns = columns + 1.2 * smooth_noise(rng, SHAPE, 6)

    background = rng.uniform(20, 60) + np.array([0, 6, 12]) * rng.uniform(-1, 1)
    image = np.ones((*SHAPE, 3)) * background + 8 * smooth_noise(rng, SHAPE, 30)[..., None]
    stain = rng.uniform(80, 140, size=3)  # what the cells of this image add per channel
    instances = np.zeros(SHAPE, np.int32)
    for _ in range(rng.integers(*NUM_CELLS)):
        centre, angle = rng.uniform(0, SHAPE), rng.uniform(0, np.pi)
        long, short = np.sort(rng.uniform(*RADII, size=2))[::-1]
        down, right = rows - centre[0], columns - centre[1]
        along, across = np.cos(angle) * down + np.sin(angle) * right, np.cos(angle) * right - np.sin(angle) * down
        radius = np.hypot(along / long, across / short)  # 1 on the membrane
        parts, _ = label((radius < 1) & (instances == 0))
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        if areas.max() < MIN_SHARE * np.pi * long * short:
            continue
        inside = parts == areas.argmax()
        instances[inside] = instances.max() + 1
        brightness = rng.uniform(0.8, 1.2) * (1 - 0.35 * radius**4 + 0.15 * (radius < 0.45))  # dim rim, nucleus
        image[inside] += (brightness[..., None] * stain)[inside]
    image[..., 2] += 6 * smooth_noise(rng, SHAPE, 2)
    image = gaussian_filter(image, (0.6, 0.6, 0)) + 5 * rng.standard_normal((*SHAPE, 3))
    return image.clip(0, 255).round().astype(np.uint8), instances


def write_image(folder: Path, seed: int, num_training: int, case: int) -> None:
    """Write one image with label and instances, as training case or, if `case` >= `num_training`, as test case."""
    split, name = "Tr" if case < num_training else "Ts", f"cells_{case:03d}"
    if not (folder / f"images{split}" / f"{name}_0000.png").exists():
        write_cells(folder, split, name, *make_cells(seed, case))


def prepare(
    source: Path | None,
    target: Path,
    *,
    workers: int = 0,
    seed: int = 20240109,
    num_training: int = 20,
    num_test: int = 6,
) -> Path:
    """Generate the phantom cells, with instancesTr and instancesTs (else ValueError)."""
    recipe = {"seed": seed, "training": num_training, "test": num_test}
    about = {"name": "PhantomCells", "channel_names": ["R", "G", "B"], "labels": CLASSES, "file_ending": ".png"}
    return generate(source, target, write_image, recipe, recipe, about, "phantom_cells", workers)
