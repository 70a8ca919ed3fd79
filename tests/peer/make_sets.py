"""Write raw data sets of different kinds, deterministically, for the comparison with nnunetv2.

python tests/peer/make_sets.py RAW_FOLDER [HIPPOCAMPUS_FOLDER]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile
from scipy import ndimage
from skimage import io as skio


def texture(shape: Sequence[int], seed: int, blur: float = 2.0) -> np.ndarray:
    """Smooth noise of deviation 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), blur)
    return (noise - noise.mean()) / noise.std()


def organs(shape: Sequence[int], seed: int, classes: int) -> np.ndarray:
    """Blobs of `classes` labels."""
    label = np.zeros(shape, dtype=np.uint8)
    for value in range(1, classes + 1):
        field = texture(shape, seed * 100 + value, blur=max(1.5, min(edge for edge in shape if edge > 1) / 8))
        label[field > 1.2] = value
    return label


def save(path: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    sitk.WriteImage(image, str(path), True)


def describe(folder: Path, channels: Sequence[str], labels: dict[str, int], cases: int, ending: str) -> None:
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ending,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def names(classes: int) -> dict[str, int]:
    return {"background": 0, **{f"class_{i}": i for i in range(1, classes + 1)}}


def pictures(folder: Path) -> None:
    """RGB PNGs of several sizes."""
    describe(folder, ("R", "G", "B"), names(3), 6, ".png")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(exist_ok=True)
    for i in range(6):
        shape = (90 + 13 * i, 120 + 7 * i)
        label = organs(shape, i, 3)
        picture = 90 + 30 * label[..., None] + 20 * np.stack([texture(shape, 7 * i + c) for c in range(3)], -1)
        skio.imsave(
            folder / "imagesTr" / f"p_{i}_0000.png", picture.clip(0, 255).astype(np.uint8), check_contrast=False
        )
        skio.imsave(folder / "labelsTr" / f"p_{i}.png", label, check_contrast=False)


def volumes(
    folder: Path,
    cases: Sequence[tuple[Sequence[int], Sequence[float]]],
    channels: Sequence[str],
    labels: dict[str, int],
    border: float = 0.0,
    ending: str = ".nii.gz",
) -> None:
    """Volumes of given shapes and spacings; CT channels as int16 HU, others float32; a black border of that share."""
    describe(folder, channels, labels, len(cases), ending)
    for i, (shape, spacing) in enumerate(cases):
        label = organs(shape, i + 1, len(labels) - 1)
        inside = np.zeros(shape, dtype=bool)
        cut = [round(border * edge) for edge in shape]
        inside[tuple(slice(c, edge - c) for c, edge in zip(cut, shape, strict=True))] = True
        for channel, name in enumerate(channels):
            image = 40.0 * label + 30.0 * texture(shape, 1000 * i + channel, blur=1.0)
            if name == "CT":
                image = np.round(image - 20).astype(np.int16)
            else:
                image = (image + 300 + 50 * i).astype(np.float32)
            if border:
                image[~inside] = 0
                holes = (texture(shape, 77 + i, blur=0.7) > 3) & inside
                image[holes] = 0  # holes inside count as inside
            save(folder / "imagesTr" / f"v_{i}_{channel:04d}{ending}", image, spacing)
        save(folder / "labelsTr" / f"v_{i}{ending}", label, spacing)


def flat(folder: Path) -> None:
    """2D images in NIfTI files."""
    describe(folder, ("MR",), names(2), 4, ".nii.gz")
    for i in range(4):
        shape, spacing = (150 + 10 * i, 130), (1.1, 0.9 + 0.1 * i)
        label = organs(shape, i, 2)
        save(
            folder / "imagesTr" / f"f_{i}_0000.nii.gz", (50 * label + 9 * texture(shape, i)).astype(np.float32), spacing
        )
        save(folder / "labelsTr" / f"f_{i}.nii.gz", label, spacing)


def change(path: Path, function: Callable[[sitk.Image], sitk.Image]) -> None:
    """Write a file anew with what `function` makes of it."""
    sitk.WriteImage(function(sitk.ReadImage(str(path))), str(path), True)


def with_labels(kept: Sequence[int]) -> Callable[[sitk.Image], sitk.Image]:
    """Of a label map these values alone."""

    def keep(image: sitk.Image) -> sitk.Image:
        array = sitk.GetArrayFromImage(image)
        left = sitk.GetImageFromArray(np.where(np.isin(array, kept), array, 0).astype(np.uint8))
        left.CopyInformation(image)
        return left

    return keep


def regions(folder: Path) -> None:
    """Regions within each other, and voxels to be ignored."""
    volumes(
        folder, [((30 + i, 40, 44), (1.5, 1.0, 1.0)) for i in range(4)], ("T1", "T2"), names(3) | {"x": 4}, border=0.1
    )
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    (folder / "dataset.json").write_text(json.dumps(content | {"regions_class_order": [1, 2, 3]}))


def absent_classes(folder: Path) -> None:
    """A case without two of the classes, and one without any."""
    volumes(folder, [((30, 40, 44), (1.5, 1.0, 1.0))] * 3, ("MR",), names(3))
    for case, kept in ((1, (1,)), (2, ())):
        change(folder / "labelsTr" / f"v_{case}.nii.gz", with_labels(kept))


def directions(folder: Path) -> None:
    """Axes that are mirrored, exchanged and oblique."""
    volumes(folder, [((30 + 3 * i, 40, 36), (2.5, 1 + 0.1 * i, 0.8)) for i in range(4)], ("MR",), names(2))
    c, s = np.cos(0.3), np.sin(0.3)
    turned = (np.diag([-1.0, -1, 1]), np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]), [[c, -s, 0], [s, c, 0], [0, 0, 1]])
    for case, axes in enumerate(turned):

        def turn(image: sitk.Image, axes: Any = axes) -> sitk.Image:
            image.SetDirection(np.ravel(axes).astype(float).tolist())
            return image

        for part, name in (("imagesTr", f"v_{case}_0000"), ("labelsTr", f"v_{case}")):
            change(folder / part / f"{name}.nii.gz", turn)


def large_class(folder: Path) -> None:
    """A class of two million voxels, of which a hundredth is kept to centre patches on."""
    volumes(folder, [((120, 150, 150), (1.0, 1.0, 1.0))], ("MR",), names(1))

    def fill(image: sitk.Image) -> sitk.Image:
        image[:, :, 10:100] = 1
        return image

    change(folder / "labelsTr" / "v_0.nii.gz", fill)


def tiff_stacks(folder: Path) -> None:
    """3D TIFF, whose spacing stands in a file beside each."""
    describe(folder, ("MR", "CT"), names(2), 3, ".tif")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(exist_ok=True)
    for i in range(3):
        shape = (20 + i, 40, 44)
        label = organs(shape, i + 1, 2)
        for channel in range(2):
            image = (50 * label + 20 * texture(shape, 3 * i + channel)).astype(np.float32)
            tifffile.imwrite(folder / "imagesTr" / f"t_{i}_{channel:04d}.tif", image)
        tifffile.imwrite(folder / "labelsTr" / f"t_{i}.tif", label)
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"t_{i}.json").write_text(json.dumps({"spacing": [2.0, 0.9, 0.9]}))


def make_sets(raw: Path) -> None:
    pictures(raw / "Dataset801_PicturesRGB")
    volumes(
        raw / "Dataset802_ThinBlackBorder",
        [((10 + i, 60 + 2 * i, 64), (4.0 + 0.5 * i, 0.9, 0.9)) for i in range(5)],
        ("T1",),
        names(2),
        border=0.12,
    )
    volumes(
        raw / "Dataset803_CT5mm",
        [((22 + i, 110, 118), (z, 0.8, 0.8)) for i, z in enumerate((5.0, 5.0, 5.0, 4.0, 6.0, 2.5))],
        ("CT",),
        names(5),
    )
    volumes(
        raw / "Dataset804_CoarseX",
        [((70, 64 + 3 * i, 40 + i), (1.0, 1.0 + 0.1 * i, 1.9)) for i in range(4)],
        ("MR",),
        names(3),
    )
    volumes(
        raw / "Dataset805_LargeCT",
        [((250, 210, 205), (1.0, 0.9, 0.9)), ((240, 205, 210), (1.1, 0.8, 0.8))],
        ("CT",),
        names(4),
    )
    volumes(
        raw / "Dataset806_TwoChannelsIgnore",
        [((44, 50, 48 + 2 * i), (1.5, 1.2, 1.2 + 0.2 * i)) for i in range(4)],
        ("MR", "CT"),
        names(3) | {"ignore": 4},
        ending=".nrrd",
    )
    volumes(raw / "Dataset807_OneCase", [((48, 52, 56), (1.3, 1.0, 1.0))], ("MR",), names(2))
    flat(raw / "Dataset808_FlatNifti")
    volumes(
        raw / "Dataset809_OtherNorms",
        [((40 + i, 44, 48), (1.0, 1.0 + 0.3 * i, 1.0)) for i in range(3)],
        ("noNorm", "rescale_to_0_1", "ct"),
        names(2),
        ending=".mha",
    )
    volumes(
        raw / "Dataset810_MixedNormsBorder",
        [((30 + i, 60 + 2 * i, 64), (2.0, 0.9, 0.9)) for i in range(3)],
        ("MR", "CT", "noNorm", "zscore"),
        names(3),
        border=0.14,
    )
    regions(raw / "Dataset811_RegionsIgnore")
    absent_classes(raw / "Dataset812_AbsentClasses")
    directions(raw / "Dataset813_Directions")
    volumes(
        raw / "Dataset814_SlicesOf1To9mm",
        [((12 + i, 96 + 8 * i, 90), (z, 0.7 + 0.05 * i, 0.7)) for i, z in enumerate((8.0, 8.0, 6.0, 3.0, 1.2, 9.0))],
        ("MR",),
        names(3),
    )
    volumes(
        raw / "Dataset815_TwoCoarseAxes",
        [((24, 26 + i, 90), (4.0 + 0.1 * i, 4.0, 0.8)) for i in range(4)],
        ("MR",),
        names(2),
    )
    volumes(
        raw / "Dataset816_SingleSlicesAndStacks",
        [((slices, 80, 90), (5.0, 0.8 + 0.1 * i, 0.9)) for i, slices in enumerate((1, 1, 3, 1, 9))],
        ("MR",),
        names(2),
    )
    tiff_stacks(raw / "Dataset817_TiffStacks")
    large_class(raw / "Dataset818_LargeClass")
    volumes(raw / "Dataset819_Tiny", [((5, 6, 7), (1.0, 1.0, 1.0))] * 4, ("MR",), names(1))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    make_sets(target)
    if len(sys.argv) > 2 and not (target / "Dataset004_Hippocampus").exists():
        (target / "Dataset004_Hippocampus").symlink_to(Path(sys.argv[2]).resolve())
