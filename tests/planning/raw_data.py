"""Small raw data sets written to disk for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from skimage import io as skio


def write_volume(
    path: Path, array: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0), direction: Sequence[float] | None = None
) -> None:
    """Write (Z, Y, X) with spacing (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))


def write_description(
    folder: Path,
    cases: int,
    channels: Sequence[str] = ("MR",),
    labels: Sequence[str] = ("liver", "spleen"),
    ending: str = ".nii.gz",
) -> None:
    """Write dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "Toy",
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, **{name: i + 1 for i, name in enumerate(labels)}},
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def blobs(shape: Sequence[int], seed: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """An image with one bright ball per class on noise, and its labels."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    label = np.zeros(shape, dtype=np.uint8)
    for value in range(1, classes + 1):
        centre = random.uniform(-0.5, 0.5, size=3).reshape(3, 1, 1, 1)
        label[np.square(grid - centre).sum(0) < 0.3**2] = value
    image = 100 + 60.0 * label + random.normal(0, 10, shape)
    return image.astype(np.float32), label


def make_dataset(
    folder: Path,
    cases: int = 3,
    shape: Sequence[int] = (20, 24, 28),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    channels: Sequence[str] = ("MR",),
    **more: Any,
) -> Path:
    """A 3D data set of `cases` cases; `more` goes to dataset.json."""
    write_description(folder, cases, channels)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | more))
    for i in range(cases):
        image, label = blobs(shape, seed=i)
        for channel in range(len(channels)):
            write_volume(folder / "imagesTr" / f"case_{i}_{channel:04d}.nii.gz", image + 7 * channel, spacing)
        write_volume(folder / "labelsTr" / f"case_{i}.nii.gz", label, spacing)
    return folder


def make_pictures(folder: Path, cases: int = 3, shape: Sequence[int] = (40, 56)) -> Path:
    """A 2D RGB data set as PNG."""
    write_description(folder, cases, ("R", "G", "B"), ending=".png")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for i in range(cases):
        random = np.random.default_rng(i)
        label = np.zeros(shape, dtype=np.uint8)
        label[8:20, 8:24], label[24:36, 30:50] = 1, 2
        picture = (random.integers(0, 60, (*shape, 3)) + 60 * label[..., None]).astype(np.uint8)
        skio.imsave(folder / "imagesTr" / f"case_{i}_0000.png", picture, check_contrast=False)
        skio.imsave(folder / "labelsTr" / f"case_{i}.png", label, check_contrast=False)
    return folder
