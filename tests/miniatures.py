"""Data sets and runs small enough for a training from nothing in seconds, through the scripts as a user calls them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from skimage import io as skio

from tests import warm_start
from umamba.raw.instances import instances_to_classes

TINY = [
    "trainer=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "data.num_workers=0",
    "data.iterations_per_epoch=2", "data.val_iterations=1", "data.batch_size=2", "data.planning.base_features=4",
    "callbacks.history=null", "callbacks.preview=null",  # pictures take as long as all the steps
]  # fmt: skip


def run(script: str, *overrides: str, folder: Path, ok: bool = True, seconds: float = 300) -> str:
    """Call a script with `folder` as the user's, and give what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UMAMBA_ROOT": str(folder), "COLUMNS": "160"}
    result = warm_start.run(script, *overrides, cwd=folder, env=environment, timeout=seconds)
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == ok, output[-6000:]
    return output


def describe(folder: Path, cases: int, channels: Sequence[str], labels: Sequence[str], ending: str) -> None:
    """Write dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": folder.name,
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, **{name: i + 1 for i, name in enumerate(labels)}},
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def make_volumes(
    folder: Path,
    *,
    cases: int = 5,
    channels: Sequence[str] = ("MR",),
    labels: Sequence[str] = ("liver",),
    present: Callable[[int, int], bool] = lambda case, label: True,
    shape: tuple[int, int, int] = (16, 20, 24),
) -> Path:
    """A 3D data set with a bright cuboid per class; `present(case, label)` says where a class occurs."""
    describe(folder, cases, channels, labels, ".nii.gz")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for case in range(cases):
        label = np.zeros(shape, np.uint8)
        for value in range(1, len(labels) + 1):
            if present(case, value):
                label[4 + case % 3 : 12, 3:15, 9 * value - 7 : 9 * value] = value
        noise = np.random.default_rng(case).normal(0, 10, (len(channels), *shape))
        for channel, image in enumerate(100 + 50 * label + noise):
            path = folder / "imagesTr" / f"case_{case}_{channel:04d}.nii.gz"
            sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.float32)), str(path))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr" / f"case_{case}.nii.gz"))
    return folder


def make_pictures(folder: Path, *, cases: int = 5, instances: bool = False) -> Path:
    """A set of grey pictures with one class of objects, or with instances of one kind."""
    describe(folder, cases, ("grey",), ("interior", "boundary") if instances else ("cell",), ".png")
    for name in ("imagesTr", "labelsTr", "instancesTr"):
        (folder / name).mkdir()
    for case in range(cases):
        objects = np.zeros((48, 56), np.uint16)
        objects[6:22, 5 + case : 24 + case], objects[26:44, 30:50] = 1, 2
        noise = np.random.default_rng(case).integers(0, 40, objects.shape)
        label = instances_to_classes(objects) if instances else (objects > 0).astype(np.uint8)
        image = (noise + 100 * (objects > 0)).astype(np.uint8)
        skio.imsave(folder / "imagesTr" / f"case_{case}_0000.png", image, check_contrast=False)
        skio.imsave(folder / "labelsTr" / f"case_{case}.png", label, check_contrast=False)
        if instances:
            skio.imsave(folder / "instancesTr" / f"case_{case}.tif", objects, check_contrast=False)
    return folder


TUMOUR = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def make_tumours(
    folder: Path, *, cases: int = 5, ignore: Callable[[int, np.ndarray], np.ndarray] | None = None
) -> Path:
    """Four channels and nested cuboids, oedema (1) around necrosis (2) around enhancing tumour (3), as regions.

    Args:
        folder: To be made.
        cases: How many.
        ignore: (case, label map) -> mask of what is ignored (label 4).
    """
    describe(folder, cases, ("FLAIR", "T1", "T1ce", "T2"), ("whole", "core", "enhancing"), ".nii.gz")
    content = json.loads((folder / "dataset.json").read_text())
    content |= {"labels": TUMOUR | ({} if ignore is None else {"ignore": 4}), "regions_class_order": [1, 2, 3]}
    (folder / "dataset.json").write_text(json.dumps(content))
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for case in range(cases):
        label = np.zeros((16, 20, 24), np.uint8)
        for value in (1, 2, 3):
            inset = 2 * (value - 1)
            label[1 + case % 2 + inset : 15 - inset, 2 + inset : 18 - inset, 3 + inset : 22 - inset] = value
        random = np.random.default_rng(case)
        for channel in range(4):  # each shows one of the borders
            image = 100 * (label > channel % 3) + random.normal(0, 10, label.shape)
            path = folder / "imagesTr" / f"case_{case}_{channel:04d}.nii.gz"
            sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.float32)), str(path))
        if ignore is not None:
            label[ignore(case, label)] = 4
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr" / f"case_{case}.nii.gz"))
    return folder
