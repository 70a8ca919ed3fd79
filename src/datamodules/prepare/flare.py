"""FLARE 2022, the paper's abdomen CT: 50 labelled training scans and the tuning scans of other centres as test set."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from umamba.datamodules.prepare.download import source_or_zenodo
from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.datamodules.prepare.sources import check_count, find_files, opened
from umamba.datamodules.prepare.volumes import case_files, check_written, copy_file, describe
from umamba.raw.organs import ORGANS

DESCRIPTION = describe(["CT"], ORGANS)
ZENODO_RECORD, TRAINING_ARCHIVE = 7860267, "FLARE22Train.zip"
HELP = (
    "FLARE 2022: get FLARE22Train.zip (50 labelled CT) from https://zenodo.org/records/7860267 and, for the test set, "
    "the labelled tuning set (Tuning/images, Tuning/labels; 50 CT) from https://flare22.grand-challenge.org (form), "
    "put both into one folder and run: python -m umamba.datamodules.prepare data=flare source=<folder>. "
    "source=zenodo downloads the training set for you. U-Mamba's own folder Dataset701_AbdomenCT works as it is"
)


def prepare(source: Path | None, target: Path, *, workers: int = 0, incomplete: bool = False) -> Path:
    """Turn FLARE 2022 as its owners distribute it into the raw layout (else FileNotFoundError, ValueError).

    Tuning and testing files reuse names for different scans: a file's role follows from its folder, not its name.
    `source` is a folder with `FLARE22Train.zip` (or its content) and perhaps `Tuning`; or the archive alone; or
    "zenodo" to download the training archive to `downloads/` beside `target`.
    """

    def write(folder: Path) -> dict[str, Any]:
        data = source_or_zenodo(source, target, ZENODO_RECORD, [TRAINING_ARCHIVE], HELP)
        with opened(data, folder / ".unpacked", archives=["FLARE22*", "Tuning*", "*tuning*"]) as roots:
            images = find_files(roots, "images/FLARE22_Tr_*.nii.gz")
            tuning = find_files(roots, "Tuning/images/*.nii.gz", "tuning/images/*.nii.gz")
            check_count(len(images), 50, "training scans (images/FLARE22_Tr_*.nii.gz)", data, incomplete=incomplete)
            if tuning:
                check_count(len(tuning), 50, "tuning scans (Tuning/images)", data, incomplete=incomplete)
            jobs = [("Tr", path) for path in images] + [("Ts", path) for path in tuning]
            for_each(functools.partial(_write_case, folder), jobs, workers=workers, description="FLARE 2022")
        return dataset_json(
            name="AbdomenCT",
            channel_names=["CT"],
            labels=ORGANS,
            num_training=len(images),
            file_ending=".nii.gz",
            licence="CC-BY 4.0 (training set; see the challenge's terms for the tuning set)",
            reference="Ma et al., Unleashing the strengths of unlabelled data in deep learning-assisted pan-cancer "
            "abdominal organ quantification: the FLARE22 challenge, Lancet Digit. Health 6 (2024)",
            provenance={"source": data.name, "training": len(images), "test (tuning set)": len(tuning)},
        )

    return build_dataset(target, write, {"source": str(source)})


def _write_case(folder: Path, job: tuple[str, Path]) -> None:
    split, image = job
    name = re.sub(r"_0000$", "", image.name.removesuffix(".nii.gz"))
    label = image.parents[1] / "labels" / f"{name}.nii.gz"
    if not label.is_file():
        raise FileNotFoundError(f"{label} is missing: the scan {image.name} has no label. Is the download complete?")
    case = case_files(folder, split, name, DESCRIPTION)
    if not case.images[0].exists():
        copy_file(label, case.label_file)
        copy_file(image, case.images[0])
        check_written(case, folder, DESCRIPTION)
