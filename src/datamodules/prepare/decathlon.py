"""Medical Segmentation Decathlon (Antonelli et al. 2022): any of its ten tasks, downloaded from its public mirror."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umamba.datamodules.prepare.download import download
from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.datamodules.prepare.sources import check_count, find_files, opened
from umamba.datamodules.prepare.volumes import case_files, check_written, copy_file, describe, split_channels
from umamba.raw.description import DatasetDescription, DatasetError, read_dataset_json

LICENCE = "CC-BY-SA 4.0"
REFERENCE = "Antonelli et al., The Medical Segmentation Decathlon, Nat. Commun. 13, 4128 (2022)"


def published(task: str) -> tuple[str, str]:
    """Address and checksum of `TaskNN_Name.tar`, as MONAI lists them (ValueError: there is no such task)."""
    from monai.apps import DecathlonDataset  # slow to import, and needed for this alone

    if task not in DecathlonDataset.resource:
        raise ValueError(f"task {task!r} is none of {', '.join(DecathlonDataset.resource)}")
    return DecathlonDataset.resource[task], f"md5:{DecathlonDataset.md5[task]}"


def prepare(
    source: Path | None, target: Path, *, task: str = "Task04_Hippocampus", workers: int = 0, incomplete: bool = False
) -> Path:
    """Turn a Decathlon task as its owners distribute it into the raw layout.

    `source` is `TaskNN_Name.tar`, or a folder with it or with its content; None downloads it to `downloads/` beside
    `target`.

    Raises:
        DownloadError: the download failed.
    """

    def write(folder: Path) -> dict[str, Any]:
        data = source
        if data is None:
            url, expected = published(task)
            data = download(url, target.parent / "downloads" / f"{task}.tar", expected=expected)
        with opened(data, folder / ".unpacked", archives=[task]) as roots:
            described = [path for path in find_files(roots, "dataset.json") if (path.parent / "imagesTr").is_dir()]
            if len(described) != 1:
                raise FileNotFoundError(
                    f"{data}: expected {task}/dataset.json beside imagesTr, found {len(described)} of them"
                )
            root = described[0].parent
            meta = read_dataset_json(described[0])
            channels, labels = (_in_order(meta, key, described[0]) for key in ("modality", "labels"))
            images = find_files([root], "imagesTr/*.nii.gz")
            check_count(len(images), int(meta["numTraining"]), "training images", data, incomplete=incomplete)
            make = functools.partial(_write_case, root, folder, describe(channels, labels[1:]))
            cases = [(path.name.removesuffix(".nii.gz"), "Tr") for path in images]
            cases += [(path.name.removesuffix(".nii.gz"), "Ts") for path in find_files([root], "imagesTs/*.nii.gz")]
            for_each(make, cases, workers=workers, description=task)
        return dataset_json(
            name=re.sub(r"^Task\d+_", "", task),
            channel_names=channels,
            labels=labels[1:],
            num_training=len(images),
            file_ending=".nii.gz",
            licence=meta.get("licence", LICENCE),
            reference=REFERENCE,
            provenance={"source": data.name, "release": meta.get("release"), "test labels": "not published"},
        )

    return build_dataset(target, write, {"source": str(source), "task": task})


def _in_order(meta: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """The names under a key, which are keyed "0", "1", ...: a name takes the place of its number."""
    names = {int(number): str(name) for number, name in meta[key].items()}
    if sorted(names) != list(range(len(names))):
        raise DatasetError(f"{path}: {key} must be numbered from 0 without a gap, it has {sorted(names)}. Correct it.")
    return [names[number] for number in range(len(names))]


def _write_case(root: Path, folder: Path, description: DatasetDescription, job: tuple[str, str]) -> None:
    name, split = job
    case = case_files(folder, split, name, description)
    if all(path.exists() for path in case.images):
        return
    if split == "Tr":
        label = root / "labelsTr" / f"{name}.nii.gz"
        if not label.is_file():
            raise DatasetError(f"{label} is missing: the image {name} has no label. Is the download complete?")
        copy_file(label, case.label_file)
    split_channels(root / f"images{split}" / f"{name}.nii.gz", case.images)
    check_written(case, folder, description)
