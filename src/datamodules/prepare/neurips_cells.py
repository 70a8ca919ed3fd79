"""NeurIPS 2022 Cell Segmentation, the paper's microscopy: any modality, size and depth, made 8-bit RGB."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from umamba.datamodules.prepare.cells import to_rgb8, write_cells
from umamba.datamodules.prepare.download import source_or_zenodo, verify
from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each
from umamba.datamodules.prepare.sources import check_count, find_files, opened
from umamba.raw.description import DatasetError
from umamba.raw.instances import CLASSES
from umamba.raw.pictures import read_picture

ZENODO_RECORD = 10719375
ARCHIVES = {
    "Training-labeled.zip": "sha256:b2383929eb8e99b2716fa0d4e2f6e03983e626a57cf00fe85175869c54aa3592",
    "Tuning.zip": "sha256:849423d36bb8fcc2d91a5b189a3b6d93c3d4071c9701eaaa44ba393a510459c4",
}
ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
HELP = (
    "NeurIPS 2022 Cell Segmentation: get Training-labeled.zip and Tuning.zip from "
    "https://zenodo.org/records/10719375, put them into one folder and run: "
    "python -m umamba.datamodules.prepare data=cell source=<folder>. source=zenodo downloads them for you. "
    "U-Mamba's own folder Dataset703_NeurIPSCell works as it is"
)


def prepare(source: Path | None, target: Path, *, workers: int = 0, incomplete: bool = False) -> Path:
    """Turn the NeurIPS 2022 cell data as their owners distribute them into an instance data set.

    Training images are the 1000 labelled ones, test images the 101 of the tuning set (the count of the paper's test
    set), named `tuning_...`: both parts count from cell_00001.
    `source` is a folder with `Training-labeled.zip` and `Tuning.zip` or their content; or "zenodo" to download them to
    `downloads/` beside `target`.

    Raises:
        DownloadError: an archive is not what its owner published.
    """

    def write(folder: Path) -> dict[str, Any]:
        data = source_or_zenodo(source, target, ZENODO_RECORD, list(ARCHIVES), HELP)
        for name, expected in ARCHIVES.items():
            archive = data if data.name == name else data / name
            if archive.is_file() and not incomplete:
                verify(archive, expected)
        with opened(data, folder / ".unpacked", archives=["Training-labeled", "Tuning"]) as roots:
            training = find_images(roots, "Training-labeled")
            tuning = find_images(roots, "Tuning")
            check_count(len(training), 1000, "images (Training-labeled/images)", data, incomplete=incomplete)
            if tuning:
                check_count(len(tuning), 101, "images (Tuning/images)", data, incomplete=incomplete)
            jobs = [("Tr", path.stem, path) for path in training]
            jobs += [("Ts", f"tuning_{path.stem}", path) for path in tuning]
            for_each(functools.partial(_write_case, folder), jobs, workers=workers, description="NeurIPS cells")
        return dataset_json(
            name="NeurIPSCell",
            channel_names=["R", "G", "B"],
            labels=CLASSES,
            num_training=len(training),
            file_ending=".png",
            licence="CC-BY-NC-ND 4.0",
            reference="Ma et al., The multimodality cell segmentation challenge: toward universal solutions, "
            "Nat. Methods 21 (2024)",
            provenance={"source": data.name, "training": len(training), "test (tuning set)": len(tuning)},
        )

    return build_dataset(target, write, {"source": str(source)})


def find_images(roots: list[Path], part: str) -> list[Path]:
    """The images of one part of the data, of any of their formats."""
    return find_files(roots, *(f"{part}/images/*{ending}" for ending in ENDINGS))


def read_image(path: Path) -> np.ndarray:
    """A microscope image (H, W) or (H, W, C) in its own depth (else DatasetError)."""
    try:
        return read_picture(path)
    except Exception as error:  # the decoders raise kinds of their own for damaged files
        raise DatasetError(f"{path} cannot be read ({error}): fetch it again") from error


def _write_case(folder: Path, job: tuple[str, str, Path]) -> None:
    split, name, image = job
    if (folder / f"images{split}" / f"{name}_0000.png").exists():
        return
    candidates = [image.parents[1] / "labels" / f"{image.stem}_label{ending}" for ending in (".tiff", ".tif")]
    label = next((path for path in candidates if path.is_file()), None)
    if label is None:
        raise DatasetError(f"{image}: expected its instances in {candidates[0]}. Is the download complete?")
    write_cells(folder, split, name, to_rgb8(read_image(image)), read_image(label))
