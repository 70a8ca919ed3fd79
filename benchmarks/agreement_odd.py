"""Volumes as nobody would choose them, made of one: for benchmarks/agreement.py --odd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

HALF = 0.5**0.5
TURNED = (HALF, -HALF, 0.0, HALF, HALF, 0.0, 0.0, 0.0, 1.0)  # by 45 degrees about z


def write_odd(images: Sequence[Path], folder: Path, file_ending: str) -> list[str]:
    """Write thin, small, thick, fine, long, padded, hollow and turned volumes of a case's channels; their names."""
    folder.mkdir(parents=True)
    names: list[str] = []
    for channel, path in enumerate(images):
        image = sitk.ReadImage(str(path))
        odd = _odd_of(sitk.GetArrayFromImage(image), image.GetSpacing()[::-1])
        names = list(odd)
        for name, (array, spacing, direction) in odd.items():
            volume = sitk.GetImageFromArray(np.ascontiguousarray(array))
            volume.SetSpacing([float(size) for size in spacing[::-1]])
            volume.SetDirection(direction or image.GetDirection())
            volume.SetOrigin(image.GetOrigin())
            sitk.WriteImage(volume, str(folder / f"{name}_{channel:04d}{file_ending}"))
    return names


def _odd_of(array: np.ndarray, spacing: Sequence[float]) -> dict[str, tuple[np.ndarray, Sequence[float], object]]:
    """Name -> voxels (Z, Y, X), voxel size in mm, and direction, None for the image's own."""
    z, y, x = spacing
    depth, height, width = (size // 2 for size in array.shape)
    hollow = array.copy()
    hollow[depth // 2 : depth, height // 2 : height, width // 2 : width] = 0
    one = np.zeros((13, 13, 13), array.dtype)
    one[6, 6, 6] = 5
    twice = (slice(depth, depth + 2), slice(height, height + 2), slice(width, width + 2))
    return {
        "as_it_is": (array, spacing, None),
        "one_slice": (array[depth : depth + 1], spacing, None),
        "one_row": (array[:, height : height + 1], spacing, None),
        "one_column": (array[:, :, width : width + 1], spacing, None),
        "two_voxels_wide": (array[twice], spacing, None),
        "a_few_slices": (array[depth : depth + 9], spacing, None),
        "narrow": (array[:, :, width : width + 10], spacing, None),
        "long": (np.concatenate([array, array[::-1], array], 2), spacing, None),
        "thick_slices": (array[::5], (5 * z, y, x), None),
        "thick_columns": (array[:, :, ::4], (z, y, 4 * x), None),
        "fine": (array, (z, 0.31 * y, 0.31 * x), None),
        "far_from_cubes": (array[::9], (9 * z, y, 0.4 * x), None),
        "no_spacing_alike": (array, (1.13 * z, 0.87 * y, 1.41 * x), None),
        "turned": (array, (z, 1.2 * y, 0.9 * x), TURNED),
        "padded": (np.pad(array, ((3, 5), (0, 7), (11, 2))), spacing, None),
        "hollow": (hollow, spacing, None),
        "one_voxel": (one, spacing, None),
        "negative": (-array.astype(np.float32), spacing, None),
    }
