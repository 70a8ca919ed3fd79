"""Phantom data: generated volumes that look like an abdominal CT, for demos and tests without any download.

Every case is a body (fat, muscle, spine) with five labelled organs that differ in size, shape, contrast and texture,
and with structures that are not labelled (stomach, bowel gas, vertebrae). Shapes are implicit surfaces in mm in a
randomly warped space, so that no two cases are alike; a volume follows from (seed, case) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.raw import volume_files

ORGANS = ("liver", "spleen", "kidney", "aorta", "gallbladder")
SHAPE = (16, 56, 56)  # voxels (z, y, x)
EXTENT = (150.0, 230.0, 300.0)  # mm (z, y, x) that a volume covers: the trunk of a small adult; y at x's pixel size
NOISE = 18.0  # HU, SD of the scanner's noise

# HU: mean, its SD from case to case, texture's SD; mm: texture's correlation length. The means follow a portal
# venous abdominal CT; liver, spleen, muscle and stomach lie so close that no threshold separates them.
TISSUES = {
    "fat": (-100, 5, 12, 6),
    "muscle": (55, 5, 12, 5),
    "bone": (420, 60, 110, 5),
    "stomach": (40, 10, 15, 10),
    "gas": (-800, 30, 20, 5),
    "liver": (110, 8, 12, 12),
    "spleen": (135, 8, 16, 4),
    "kidney": (190, 15, 20, 5),
    "pelvis": (120, 10, 10, 5),  # of the kidney, part of the organ
    "aorta": (230, 20, 5, 5),
    "gallbladder": (8, 5, 3, 5),
}

Field = np.ndarray  # (Z, Y, X) implicit surface: negative inside


def ellipsoid(grid: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> Field:
    """Implicit surface of an ellipsoid; `grid` is (3, Z, Y, X), centre and radii are in mm (z, y, x)."""
    offset = (grid - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    return np.sqrt((offset**2).sum(axis=0)) - 1.0


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: np.ndarray | float | Sequence[float]
) -> np.ndarray:
    """Gaussian noise of zero mean and unit SD, correlated over `sigma` voxels."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def draw_anatomy(rng: np.random.Generator, grid: np.ndarray) -> list[tuple[str, str | None, Field]]:
    """Structures in painting order (later ones cover earlier ones): tissue, organ that it belongs to, surface."""

    def place(z: float, y: float, x: float, by: float = 5.0) -> tuple[float, ...]:
        return tuple(np.array([z, y, x]) + rng.normal(0, by, 3))

    def size(z: float, y: float, x: float) -> tuple[float, ...]:
        return tuple(np.array([z, y, x]) * rng.uniform(0.9, 1.1, 3) * rng.uniform(0.92, 1.08))

    endless = 1e5  # mm: a tube along z
    cavity = ellipsoid(grid, (0, -4, 0), (endless, 80, 114))
    vertebra = ellipsoid(grid, (0, 56, 0), (endless, 16, 20))
    process = ellipsoid(grid, (0, 80, 0), (endless, 14, 6))
    right_lobe = ellipsoid(grid, place(14, -8, -62), size(54, 50, 40))
    left_lobe = ellipsoid(grid, place(30, -38, -16), size(32, 24, 40))
    kidneys = np.minimum(
        ellipsoid(grid, place(-28, 40, -58, by=4), size(38, 22, 22)),
        ellipsoid(grid, place(-20, 40, 56, by=4), size(38, 22, 22)),
    )
    stomach = ellipsoid(grid, place(22, -34, 52), size(34, 24, 30))
    air = ellipsoid(grid, place(24, -44, 52), size(16, 8, 16))
    bowel = ellipsoid(grid, place(-44, -30, 10), size(20, 18, 46))
    return [
        ("fat", None, ellipsoid(grid, (0, 0, 0), (endless, 98, 134))),
        ("muscle", None, np.maximum(ellipsoid(grid, (0, 0, 0), (endless, 90, 124)), -cavity)),
        ("bone", None, np.minimum(vertebra, process)),
        ("stomach", None, np.minimum(stomach, bowel)),
        ("gas", None, air),
        ("liver", "liver", np.minimum(right_lobe, left_lobe)),
        ("spleen", "spleen", ellipsoid(grid, place(26, 18, 82), size(36, 34, 23))),
        ("kidney", "kidney", kidneys),
        ("pelvis", "kidney", kidneys + 0.55),
        ("gallbladder", "gallbladder", ellipsoid(grid, place(-16, -38, -34, by=4), size(34, 24, 24))),
        ("aorta", "aorta", ellipsoid(grid, place(0, 26, 8, by=2), (endless, *size(1, 13, 13)[1:]))),
    ]


def make_volume(seed: int, case: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One phantom.

    Returns:
        image (Z, Y, X) int16 in HU; label (Z, Y, X) uint8, 0 or 1 + an index of ORGANS; spacing (z, y, x) in mm.
    """
    rng = np.random.default_rng((seed, case))
    spacing = np.array(EXTENT) / SHAPE * rng.uniform(0.92, 1.08, 3)
    spacing[1] = spacing[2]  # CT has square pixels
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, Z, Y, X) mm from the centre: up, back, left
    grid += 4.0 * np.stack([smooth_noise(rng, SHAPE, 25 / spacing) for _ in range(3)])  # mm, over about 25 mm

    image = np.full(SHAPE, -1000.0)
    label = np.zeros(SHAPE, np.uint8)
    for tissue, organ, surface in draw_anatomy(rng, grid):
        mean, between_cases, texture, length = TISSUES[tissue]
        inside = surface < 0
        hounsfield = rng.normal(mean, between_cases) + texture * smooth_noise(rng, SHAPE, length / spacing)
        image[inside] = hounsfield[inside]
        if organ is not None:
            label[inside] = 1 + ORGANS.index(organ)
    image = gaussian_filter(image, (0.3, 0.5, 0.5))  # partial volume
    image += NOISE * smooth_noise(rng, SHAPE, (0, 0.6, 0.6))
    return image.clip(-1024, 3071).round().astype(np.int16), label, spacing


def write_volume(folder: Path, seed: int, num_training: int, case: int) -> None:
    """Write one phantom as NIfTI into imagesTr/labelsTr, or imagesTs/labelsTs if `case` >= `num_training`."""
    image, label, spacing = make_volume(seed, case)
    split, name = "Tr" if case < num_training else "Ts", f"phantom_{case:03d}"
    files = {f"images{split}/{name}_0000.nii.gz": image, f"labels{split}/{name}.nii.gz": label}
    for path, array in files.items():
        if (folder / path).exists():
            continue
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(tuple(float(step) for step in spacing[::-1]))
        volume.SetOrigin((-150.0, -115.0, float(-100 + 7 * case)))
        volume_files.write_volume(volume, folder / path)


def prepare(
    source: Path | None,
    target: Path,
    *,
    workers: int = 0,
    seed: int = 20240109,
    num_training: int = 12,
    num_test: int = 4,
) -> Path:
    """Generate the phantom data set (else ValueError)."""
    cases = {"seed": seed, "training": num_training, "test": num_test}
    about = {"name": "Phantom", "channel_names": ["CT"], "labels": ORGANS, "file_ending": ".nii.gz"}
    return generate(source, target, write_volume, cases, {**cases, "shape": list(SHAPE)}, about, "phantom", workers)


def generate(
    source: Path | None,
    target: Path,
    make: Callable[..., None],
    cases: dict[str, int],
    recipe: dict[str, Any],
    about: dict[str, Any],
    made_by: str,
    workers: int,
) -> Path:
    """Make a raw data set of generated cases.

    Args:
        source: Must be None: there is nothing to read.
        target: Folder to make.
        make: Writes a case: takes the folder, seed, number of training cases and the case's number.
        cases: Seed, and how many there are for training and for testing.
        recipe: As of `build_dataset`.
        about: Of `dataset_json` what is of this data set alone.
        made_by: Name of the module.
        workers: Processes.

    Raises:
        ValueError: `source` was given.
    """
    if source is not None:
        raise ValueError(f"source={source}: the phantom is generated; leave source out")

    def write(folder: Path) -> dict[str, Any]:
        make_case = functools.partial(make, folder, cases["seed"], cases["training"])
        numbers = range(cases["training"] + cases["test"])
        for_each(make_case, numbers, workers=workers, description=about["name"])
        return dataset_json(
            **about,
            num_training=cases["training"],
            licence="CC0-1.0",
            reference=f"generated by umamba-lightning, src/datamodules/prepare/{made_by}.py",
            provenance=cases,
        )

    return build_dataset(target, write, recipe)
