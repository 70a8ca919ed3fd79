"""AMOS 2022, the paper's abdomen MR: the MRI scans with FLARE's 13 organs, in FLARE's order."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from umamba.datamodules.prepare.download import source_or_zenodo
from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.datamodules.prepare.sources import check_count, find_files, opened
from umamba.datamodules.prepare.volumes import case_files, check_written, copy_file, describe, renumber_labels
from umamba.raw.organs import ORGANS

# AMOS's own names in the order of its numbers; bladder and prostate/uterus, 14 and 15, are not among FLARE's 13.
AMOS_ORGANS = (
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum",
)  # fmt: skip
NUMBERS = {number: 1 + ORGANS.index(organ) for number, organ in enumerate(AMOS_ORGANS, start=1)} | {14: 0, 15: 0}
DESCRIPTION = describe(["MR"], ORGANS)
FIRST_MRI = 501  # scans 1 to 500 are CT
ZENODO_RECORD, ARCHIVE = 7262581, "amos22.zip"
HELP = (
    "AMOS 2022: get amos22.zip (23 GB) from https://zenodo.org/records/7262581 and run: "
    "python -m umamba.datamodules.prepare data=amos_mr source=<archive or folder>. source=zenodo downloads it for you. "
    "The 50 labelled test scans of the paper are only in U-Mamba's own folder Dataset702_AbdomenMR; it works as it is"
)


def prepare(source: Path | None, target: Path, *, workers: int = 0, incomplete: bool = False) -> Path:
    """Turn the MRI part of AMOS 2022 as its owners distribute it into the raw layout.

    Training cases are the 40 MRI of AMOS's training and the 20 of its validation part, as in the paper; the MRI of
    its test part go to imagesTs without labels, which are not published. `source` is `amos22.zip` or a folder with it
    or its content; or "zenodo" to download it to `downloads/` beside `target`.

    Raises:
        FileNotFoundError: nothing to read; the message says what to get where.
        ValueError: counts, labels or geometry are not what they should be.
    """

    def write(folder: Path) -> dict[str, Any]:
        data = source_or_zenodo(source, target, ZENODO_RECORD, [ARCHIVE], HELP)
        with opened(data, folder / ".unpacked", archives=["amos*"], wanted=is_mri) as roots:
            parts = {part: find_mri(roots, f"images{part}") for part in ("Tr", "Va", "Ts")}
            check_count(len(parts["Tr"]), 40, "MRI in imagesTr (ids above 500)", data, incomplete=incomplete)
            check_count(len(parts["Va"]), 20, "MRI in imagesVa (ids above 500)", data, incomplete=incomplete)
            jobs = [(part, path) for part in parts for path in parts[part]]
            for_each(functools.partial(_write_case, folder), jobs, workers=workers, description="AMOS 2022 MRI")
        return dataset_json(
            name="AbdomenMR",
            channel_names=["MR"],
            labels=ORGANS,
            num_training=len(parts["Tr"]) + len(parts["Va"]),
            file_ending=".nii.gz",
            licence="CC-BY 4.0",
            reference="Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark for Versatile Medical Image "
            "Segmentation, NeurIPS 2022 Datasets and Benchmarks",
            provenance={
                "source": data.name,
                "training": {"imagesTr": len(parts["Tr"]), "imagesVa": len(parts["Va"])},
                "test without labels": len(parts["Ts"]),
                "labels": {str(old): new for old, new in NUMBERS.items()},
            },
        )

    return build_dataset(target, write, {"source": str(source)})


def is_mri(path: str | Path) -> bool:
    """Whether a file name is that of an AMOS MRI, by its number."""
    match = re.search(r"amos_(\d+)(?:_0000)?\.nii\.gz$", str(path))
    return match is not None and int(match[1]) >= FIRST_MRI


def find_mri(roots: list[Path], folder: str) -> list[Path]:
    """The MRI images of one part of AMOS."""
    return [path for path in find_files(roots, f"{folder}/*.nii.gz") if is_mri(path)]


def _write_case(folder: Path, job: tuple[str, Path]) -> None:
    part, image = job
    name = re.sub(r"_0000$", "", image.name.removesuffix(".nii.gz"))
    case = case_files(folder, "Ts" if part == "Ts" else "Tr", name, DESCRIPTION)
    if case.images[0].exists():
        return
    if part != "Ts":
        label = image.parents[1] / f"labels{part}" / f"{name}.nii.gz"
        if not label.is_file():
            raise FileNotFoundError(f"{label} is missing: the scan {name} has no label. Is the download complete?")
        renumber_labels(label, case.label_file, NUMBERS)
    copy_file(image, case.images[0])
    check_written(case, folder, DESCRIPTION)
