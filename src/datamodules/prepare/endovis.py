"""EndoVis 2017 robotic instruments, the paper's endoscopy: seven instrument types in left camera frames."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.datamodules.prepare.sources import check_count, find_files, opened
from umamba.datamodules.prepare.volumes import copy_file
from umamba.datamodules.splits import NUM_FOLDS, SPLITS_FILE
from umamba.files import write_json
from umamba.raw.description import DatasetError
from umamba.raw.pictures import write_picture

INSTRUMENTS = (
    "Bipolar Forceps", "Prograsp Forceps", "Large Needle Driver", "Vessel Sealer", "Grasping Retractor",
    "Monopolar Curved Scissors", "Ultrasound Probe",
)  # fmt: skip
# What the mask folders of the classes are called, with Left_, Right_ or Maryland_ before and _labels behind.
FOLDERS = (*(name.replace(" ", "_") for name in INSTRUMENTS[:-1]), "Other")
HELP = (
    "EndoVis 2017: register at https://endovissub2017-roboticinstrumentsegmentation.grand-challenge.org, get "
    "instrument_1_4_training, instrument_5_8_training, instrument_1_4_testing, instrument_5_8_testing, "
    "instrument_9_10_testing and the test labels instrument_2017_test (zip), put them into one folder and run: "
    "python -m umamba.datamodules.prepare data=endovis source=<folder>. "
    "U-Mamba's own folder Dataset704_Endovis17 works as it is"
)


def prepare(source: Path | None, target: Path, *, workers: int = 0, incomplete: bool = False) -> Path:
    """Turn EndoVis 2017 as its owners distribute it into the raw layout, frames whole with their black border.

    The official split: 225 frames of each of videos 1 to 8 for training; the other 75 of each and videos 9 and 10
    for testing. Folds (splits_final.json) hold out whole videos.
    `source` is a folder with the zips or their content.

    Raises:
        FileNotFoundError: nothing to read; the message says what to get where.
        ValueError: counts, sizes or labels are not what they should be.
    """

    def wanted(name: str) -> bool:
        return any(f"/{part}/" in f"/{name}" for part in ("left_frames", "ground_truth", "TypeSegmentation"))

    def write(folder: Path) -> dict[str, Any]:
        if source is None:
            raise FileNotFoundError(f"{target} is missing. {HELP}")
        with opened(source, folder / ".unpacked", archives=["instrument_*"], wanted=wanted) as roots:
            frames = find_files(roots, "left_frames/*.png")
            training = [frame for frame in frames if (frame.parents[1] / "ground_truth").is_dir()]
            test = [frame for frame in frames if not (frame.parents[1] / "ground_truth").is_dir()]
            check_count(len(training), 1800, "training frames (left_frames)", source, incomplete=incomplete)
            types = {key(path): path for path in find_files(roots, "TypeSegmentation/*.png")}
            if test:
                check_count(len(test), 1200, "test frames (left_frames)", source, incomplete=incomplete)
                check_count(len(types), len(test), "test labels (TypeSegmentation)", source, incomplete=incomplete)
            jobs: list[tuple[str, Path, Path | None]] = [("Tr", frame, None) for frame in training]
            jobs += [("Ts", frame, types.get(key(frame))) for frame in test]
            for_each(functools.partial(_write_case, folder), jobs, workers=workers, description="EndoVis 2017")
        write_json(split_by_video(key(frame) for frame in training), folder / SPLITS_FILE)
        return dataset_json(
            name="Endovis17",
            channel_names=["R", "G", "B"],
            labels=INSTRUMENTS,
            num_training=len(training),
            file_ending=".png",
            licence="for research, on the challenge's terms",
            reference="Allan et al., 2017 Robotic Instrument Segmentation Challenge, arXiv 1902.06426",
            provenance={
                "source": source.name,
                "training": len(training),
                "test": len(test),
                "split": "official: videos 1-8, the first 225 frames of each, against the rest and videos 9 and 10",
            },
        )

    return build_dataset(target, write, {"source": str(source)})


def key(path: Path) -> tuple[int, int]:
    """Video and frame number of a file (else DatasetError)."""
    video = re.findall(r"instrument_dataset_(\d+)", str(path))
    frame = re.search(r"(\d+)\.png$", path.name)
    if not video or frame is None:
        raise DatasetError(f"{path}: expected instrument_dataset_N/.../frameNNN.png")
    return int(video[-1]), int(frame[1])


def case_name(split: str, video: int, frame: int) -> str:
    """Name of a case; test frames are named apart, for some releases count them from 0 again."""
    return f"video{video:02d}_{'test_' if split == 'Ts' else ''}frame{frame:03d}"


def split_by_video(frames: Iterable[tuple[int, int]]) -> list[dict[str, list[str]]]:
    """Folds that hold out whole videos: fold k validates with videos k+1, k+6, ..."""
    names: dict[int, list[str]] = {}
    for video, frame in sorted(frames):
        names.setdefault(video, []).append(case_name("Tr", video, frame))
    folds = []
    for fold in range(min(NUM_FOLDS, len(names))):
        held_out = sorted(names)[fold::NUM_FOLDS]
        folds.append(
            {
                "train": [name for video in names if video not in held_out for name in names[video]],
                "val": [name for video in held_out for name in names[video]],
            }
        )
    return folds


def instrument_of(folder: str) -> int:
    """Class number of a mask folder such as `Maryland_Bipolar_Forceps_labels` (else DatasetError)."""
    for number, name in enumerate(FOLDERS, start=1):
        if name in folder:
            return number
    raise DatasetError(f"mask folder {folder} names none of {', '.join(FOLDERS)}")


def read_types(frame: Path) -> np.ndarray:
    """Instrument types (H, W) uint8 of a training frame, from one mask folder per instrument.

    Raises:
        DatasetError: a mask is missing, has another size, or its folder names no instrument.
    """
    types = None
    for masks in sorted(path for path in (frame.parents[1] / "ground_truth").iterdir() if path.is_dir()):
        path = masks / frame.name
        if not path.is_file():
            raise DatasetError(f"{path} is missing. Is the download complete?")
        mask = iio.imread(path)
        if mask.ndim == 3:
            mask = mask[..., :3].max(axis=-1)
        types = np.zeros(mask.shape, np.uint8) if types is None else types
        if mask.shape != types.shape:
            raise DatasetError(f"{path}: {mask.shape} px, the other masks of the frame have {types.shape}")
        types[mask > 0] = instrument_of(masks.name)  # 10, 20, 30: shaft, wrist, claspers
    if types is None:
        raise DatasetError(f"{frame.parents[1] / 'ground_truth'} has no mask folders")
    return types


def read_test_types(path: Path) -> np.ndarray:
    """Instrument types (H, W) uint8 of a test frame (else DatasetError)."""
    types = iio.imread(path)
    if types.ndim == 3:
        types = types[..., 0]
    if types.max() > len(INSTRUMENTS):
        raise DatasetError(f"{path}: expected the classes 0 to {len(INSTRUMENTS)}, found {np.unique(types).tolist()}")
    return types.astype(np.uint8)


def _write_case(folder: Path, job: tuple[str, Path, Path | None]) -> None:
    split, frame, label = job
    name = case_name(split, *key(frame))
    image = folder / f"images{split}" / f"{name}_0000.png"
    if image.exists():
        return
    if split == "Tr" or label is not None:
        types = read_types(frame) if label is None else read_test_types(label)
        size = iio.improps(frame).shape[:2]
        if types.shape != size:
            raise DatasetError(f"{label or frame}: label {types.shape} px, frame {size} px")
        write_picture(types, folder / f"labels{split}" / f"{name}.png")
    copy_file(frame, image)
