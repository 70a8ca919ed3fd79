"""Generated raw data sets that nnU-Net's planner gives the paper's patches: what benchmarks/epochs.py trains on.

The benchmark's own data sets are not everybody's to copy. What an epoch costs follows from patch, batch, channels and
classes, and from how well the store compresses; these volumes are smooth noise, which compresses as badly as images.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from imageio.v3 import imwrite
from scipy.ndimage import zoom

from umamba.machine import usable_cpus


@dataclass(frozen=True, kw_only=True)
class GeneratedSet:
    """A raw data set.

    Attributes:
        name: Of its folder.
        cases: How many.
        shape: Of an image, (z, y, x); pictures have z = 1.
        spacing: In mm, (z, y, x).
        channels: Their names.
        classes: Background included.
    """

    name: str
    cases: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: tuple[str, ...]
    classes: int

    @property
    def ending(self) -> str:
        """Of its files."""
        return ".png" if self.shape[0] == 1 else ".nii.gz"

    def make(self, raw: Path) -> Path:
        """The folder below `raw`, generated if it is not there whole."""
        folder = raw / self.name
        if (folder / "dataset.json").is_file():
            return folder
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(min(usable_cpus(), self.cases)) as pool:
            list(pool.map(self._make_case, [folder] * self.cases, range(self.cases)))
        content = {
            "channel_names": dict(enumerate(self.channels)),
            "labels": {"background": 0, **{f"organ_{k}": k for k in range(1, self.classes)}},
            "numTraining": self.cases,
            "file_ending": self.ending,
        }
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    def _make_case(self, folder: Path, case: int) -> None:
        rng = np.random.default_rng(case)
        label = (_smooth(rng, self.shape, 24) * 2.5 * self.classes).astype(np.int16) - self.classes // 2
        label = np.where((label > 0) & (label < self.classes), label, 0).astype(np.uint8)
        channels = [60.0 * label + 400 * _smooth(rng, self.shape, 6) for _ in self.channels]
        image = np.stack([channel + rng.normal(0, 15, self.shape) for channel in channels])
        if self.ending == ".png":
            imwrite(folder / "imagesTr" / f"case_{case:02d}_0000.png", _as_picture(image))
            imwrite(folder / "labelsTr" / f"case_{case:02d}.png", label[0])
            return
        for index, channel in enumerate(image):
            self._write(channel.astype(np.int16), folder / "imagesTr" / f"case_{case:02d}_{index:04d}.nii.gz")
        self._write(label, folder / "labelsTr" / f"case_{case:02d}.nii.gz")

    def _write(self, array: np.ndarray, path: Path) -> None:
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(self.spacing[::-1])
        sitk.WriteImage(volume, str(path), useCompression=True)


def _smooth(rng: np.random.Generator, shape: tuple[int, int, int], grain: int) -> np.ndarray:
    """Smooth noise in [0, 1), float32."""
    coarse = rng.random([-(-n // grain) + 1 for n in shape], np.float32)
    fine = zoom(
        coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=1, grid_mode=True, mode="nearest"
    )
    return np.clip(fine[tuple(slice(n) for n in shape)], 0, 0.999)


def _as_picture(image: np.ndarray) -> np.ndarray:
    """(C, 1, Y, X) -> (Y, X, C) uint8."""
    return np.clip(image[:, 0] / 4, 0, 255).astype(np.uint8).transpose(1, 2, 0)


MRI = {"cases": 6, "shape": (72, 260, 320), "spacing": (3.0, 1.2, 1.2), "channels": ("MRI",), "classes": 14}
RGB = ("R", "G", "B")
SETS = {
    "ct_3d": GeneratedSet(
        name="Dataset901_LikeCT", cases=6, shape=(97, 512, 512), spacing=(2.5, 0.8, 0.8), channels=("CT",), classes=14
    ),
    "mr_3d": GeneratedSet(name="Dataset902_LikeMR", **MRI),  # type: ignore[arg-type]  # of five types
    "mr_2d": GeneratedSet(name="Dataset902_LikeMR", **MRI),  # type: ignore[arg-type]
    "endoscopy": GeneratedSet(
        name="Dataset903_LikeEndoscopy", cases=12, shape=(1, 1080, 1920), channels=RGB, classes=8
    ),
    "cells": GeneratedSet(name="Dataset904_LikeCells", cases=12, shape=(1, 1024, 1024), channels=RGB, classes=3),
}
