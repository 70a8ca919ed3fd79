"""Nuclei of the 2018 Data Science Bowl (BBBC038, stage 1), downloaded from the Broad Institute."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas as pd

from umamba.datamodules.prepare.cells import to_rgb8, write_cells
from umamba.datamodules.prepare.download import download
from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.datamodules.prepare.sources import check_count, find_files, opened
from umamba.raw.description import DatasetError
from umamba.raw.instances import CLASSES

URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
NUM_IMAGES = 670  # of stage1_train
TEST_SHARE = 0.2


def is_test(identifier: str) -> bool:
    """Whether an image is a test image: the identifiers are hashes, the lowest fifth of them is the test set.

    An image's side thus depends on nothing but the image; it is the same in every selection of the data.
    """
    return int(identifier[:8], 16) < TEST_SHARE * 2**32


def prepare(source: Path | None, target: Path, *, workers: int = 0, incomplete: bool = False, url: str = URL) -> Path:
    """Turn BBBC038's stage 1 training images into an instance data set.

    Two forms are read: the owners' (`<id>/images/<id>.png` and `<id>/masks/*.png`, one file per nucleus), and a
    selection with `manifest.csv`, `images/<id>.png` and `instances/<id>.png` (16 bit, corrected masks).
    `source` is `stage1_train.zip` or a folder with one of the two forms; None downloads the archive from `url` to
    `downloads/` beside `target`.

    Raises:
        DownloadError: the download failed.
    """

    def write(folder: Path) -> dict[str, Any]:
        data = source or download(url, target.parent / "downloads" / "stage1_train.zip")
        with opened(data, folder / ".unpacked", archives=["stage1_train"]) as roots:
            images = find_images(roots)
            manifest = data / "manifest.csv"
            expected = len(pd.read_csv(manifest)) if manifest.is_file() else NUM_IMAGES
            check_count(len(images), expected, "images", data, incomplete=incomplete)
            for_each(functools.partial(_write_case, folder), images, workers=workers, description="nuclei")
        num_test = sum(is_test(path.stem) for path in images)
        return dataset_json(
            name="Nuclei",
            channel_names=["R", "G", "B"],
            labels=CLASSES,
            num_training=len(images) - num_test,
            file_ending=".png",
            licence="CC0-1.0",
            reference="Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, "
            "Nat. Methods 16 (2019); image set BBBC038v1, Broad Bioimage Benchmark Collection",
            provenance={
                "source": data.name,
                "training": len(images) - num_test,
                "test": num_test,
                "split": "test if the first 32 bits of the identifier, as a fraction, are below 0.2",
            },
        )

    return build_dataset(target, write, {"source": str(source)})


def find_images(roots: list[Path]) -> list[Path]:
    """The images that have instances, in either form (else FileNotFoundError)."""
    owners = [path for path in find_files(roots, "*/images/*.png") if (path.parents[1] / "masks").is_dir()]
    selection = [path for path in find_files(roots, "images/*.png") if (path.parents[1] / "instances").is_dir()]
    if not owners and not selection:
        raise FileNotFoundError(
            f"{roots[-1]}: expected <id>/images/<id>.png with <id>/masks (stage1_train.zip of BBBC038), or "
            "images/<id>.png with instances/<id>.png; found neither"
        )
    return owners or selection


def read_instances(image: Path) -> np.ndarray:
    """Instance map (H, W) int32 of an image in either form.

    Raises:
        DatasetError: there is none, or the masks differ in size.
    """
    whole = image.parents[1] / "instances" / image.name
    if whole.is_file():
        return iio.imread(whole).astype(np.int32)
    masks = [path for path in sorted((image.parents[1] / "masks").glob("*.png")) if not path.name.startswith(".")]
    if not masks:
        raise DatasetError(f"{image}: expected its nuclei in {image.parents[1] / 'masks'}, found no PNG")
    instances = np.zeros(iio.imread(masks[0]).shape[:2], np.int32)
    for number, path in enumerate(masks, start=1):
        mask = iio.imread(path) > 0
        if mask.ndim == 3:
            mask = mask[..., 0]
        if mask.shape != instances.shape:
            raise DatasetError(f"{path}: {mask.shape} px, the other masks of the image have {instances.shape}")
        instances[mask] = number
    return instances


def _write_case(folder: Path, image: Path) -> None:
    split = "Ts" if is_test(image.stem) else "Tr"
    if not (folder / f"images{split}" / f"{image.stem}_0000.png").exists():
        write_cells(folder, split, image.stem, to_rgb8(iio.imread(image)), read_instances(image))
