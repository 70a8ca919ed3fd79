"""Raw data sets in nnU-Net's layout: which files belong to which case.

Layout: ``dataset.json``, ``imagesTr``, ``labelsTr`` and, if there is a test set, ``imagesTs`` and ``labelsTs`` (or
``imagesVal`` and ``labelsVal``); images are ``NAME_0000.ext``, one file per channel (an RGB picture is one file of
three channels), labels ``NAME.ext``.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

from umamba.names import name_fault
from umamba.raw.description import (
    PICTURE_ENDINGS,
    VOLUME_ENDINGS,
    DatasetDescription,
    DatasetError,
    raise_faults,
    read_dataset_json,
)
from umamba.raw.listing import listed_files
from umamba.raw.sources import Source, sources_of

log = logging.getLogger(__name__)

OF_A_DATA_SET = ("images", "labels", "instances")  # how the names of its folders begin
_SHOWN = 10  # names of files in one line


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """The files of one case: one image per channel (or one picture with all of them) and perhaps a label.

    Attributes:
        identifier: Its name.
        images: In the order of the channels.
        label: None where there is none.
        source: The data set that it is of, where several were made into one.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path | None
    source: Source | None = None

    def __post_init__(self) -> None:
        # Stores, predictions and pictures are named after the case.
        if fault := name_fault(self.identifier):
            raise DatasetError(f"A case cannot be called {self.identifier!r:.300}: {fault}. Rename it.")

    @property
    def label_file(self) -> Path:
        """The label of a case that must have one (else DatasetError)."""
        if self.label is None:
            raise DatasetError(f"Case {self.identifier} has no label, which it needs here.")
        return self.label


@dataclass(frozen=True, kw_only=True)
class RawDataset(DatasetDescription):
    """A raw data set on disk: its description and the files of its cases, sorted by name.

    Attributes:
        folder: It holds dataset.json.
        training_cases: Those of imagesTr, or that dataset.json lists, each with a label.
        test_cases: Those of imagesTs or imagesVal, with a label where there is one.
    """

    folder: Path
    training_cases: tuple[RawCase, ...]
    test_cases: tuple[RawCase, ...] = ()

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Read dataset.json and pair the files; no image is opened.

        Hidden files, among them the ``._*`` files that macOS leaves behind, are skipped with one warning.

        Raises:
            FileNotFoundError: The folder or its dataset.json does not exist.
            DatasetError: dataset.json is malformed, there is no training case, or files do not pair up.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"The raw data set folder {folder} does not exist. Check data.dataset_dir.")
        path = folder / "dataset.json"
        content = read_dataset_json(path)
        description = DatasetDescription.of(content, path)
        explicit = content.get("dataset")
        if explicit:
            training = _listed_cases(folder, explicit, path, description)
        else:
            training, faults = pair_files(folder, "Tr", description)
            raise_faults(faults, f"Files of {folder} do not pair up")
        test, faults = pair_files(folder, test_split(folder), description)
        raise_faults(faults, f"Files of {folder} do not pair up")
        if not training:
            raise DatasetError(
                f"{folder} has no training case: expected images named NAME_0000{description.file_ending} in "
                f"{folder / 'imagesTr'}. Check the folder and file_ending in dataset.json."
            )
        if description.num_training != len(training):
            log.warning(
                "%s declares numTraining %d, but %d training cases were found; the planner goes by the %d files.",
                path, description.num_training, len(training), len(training),
            )  # fmt: skip
        if sources := sources_of(content, path):
            training, test = (
                tuple(replace(case, source=sources.get(case.identifier)) for case in cases)
                for cases in (training, test)
            )
        return cls(folder=folder, training_cases=training, test_cases=test, **vars(description))

    @property
    def description(self) -> DatasetDescription:
        """What dataset.json says, without the files."""
        return DatasetDescription(**{field.name: getattr(self, field.name) for field in fields(DatasetDescription)})


def refuse_raw_folders(folder: Path, dataset_dir: Path, key: str) -> None:
    """See that a folder to write into is not a raw data set, does not hold it, and is none of its folders of images.

    Raises:
        ValueError: It is.
    """
    target, raw = folder.resolve(), dataset_dir.resolve()
    inner = target.relative_to(raw).parts[:1] if raw in target.parents else ()
    relation = (
        "is the raw data set"
        if target == raw
        else "holds the raw data set"
        if target in raw.parents
        else "lies among the images of the raw data set"
        if inner and inner[0].startswith(OF_A_DATA_SET)
        else None
    )
    if relation:
        raise ValueError(
            f"{key}={folder} {relation} {dataset_dir}: what is written there could replace its files, or be taken for "
            f"them. Give {key} a folder of its own."
        )


def _listed_cases(folder: Path, listing: object, path: Path, description: DatasetDescription) -> tuple[RawCase, ...]:
    """The cases that dataset.json lists under "dataset" (nnU-Net >= 2.2)."""
    try:
        return tuple(
            RawCase(identifier=name, images=images, label=label)
            for name, (images, label) in listed_files(folder, listing, path, description).items()
        )
    except DatasetError as error:
        raise DatasetError(f"{path}, under dataset: {error}") from error


def warn_of_other_endings(folder: Path, ending: str) -> None:
    """Say in one line which images of a folder have another ending, such as .NII.GZ or .nii: they are not read."""
    known = (*VOLUME_ENDINGS, *PICTURE_ENDINGS)
    other = sorted(
        path.name
        for path in folder.iterdir()
        if path.name.lower().endswith(known)
        and not path.name.endswith(ending)
        and not path.name.startswith(".")
        and path.is_file()
    )
    if other:
        names = ", ".join(name if name.isprintable() else repr(name) for name in other[:_SHOWN])
        log.warning(
            "%d file(s) in %s do not end in %s and are left out; convert or rename them if they are cases: %s%s.",
            len(other), folder, ending, names, ", ..." if len(other) > _SHOWN else "",
        )  # fmt: skip


def _visible_files(folder: Path, ending: str) -> list[Path]:
    if not folder.is_dir():
        return []
    warn_of_other_endings(folder, ending)
    files = sorted(p for p in folder.iterdir() if p.name.endswith(ending) and p.is_file())
    hidden = [p.name for p in files if p.name.startswith(".")]
    if hidden:
        log.warning("Skipped %d hidden files in %s (such as %s); they hold no data.", len(hidden), folder, hidden[0])
    return [p for p in files if not p.name.startswith(".")]


def test_split(folder: Path) -> str:
    """What the test part is called: "Ts", or "Val" as in U-Mamba's Dataset701_AbdomenCT and Dataset703_NeurIPSCell."""
    return "Val" if (folder / "imagesVal").is_dir() and not (folder / "imagesTs").is_dir() else "Ts"


def pair_files(folder: Path, split: str, description: DatasetDescription) -> tuple[tuple[RawCase, ...], list[str]]:
    """Group the channel files of a split by case and look up the labels.

    Args:
        folder: The data set's.
        split: "Tr" (every image needs a label), "Ts" or "Val": the end of the folders' names.
        description: What dataset.json says.

    Returns:
        The cases that have all their channels, sorted by name, and what is wrong with the files, a message each.
    """
    images, labels = f"images{split}", f"labels{split}"
    ending = description.file_ending
    pattern = re.compile(rf"(?P<name>.+)_(?P<channel>\d{{4}}){re.escape(ending)}")
    channels: dict[str, dict[int, Path]] = {}
    faults: list[str] = []
    unnamed: set[str] = set()  # images without a channel, whose labels do not lack an image
    for file in _visible_files(folder / images, ending):
        match = pattern.fullmatch(file.name)
        if match is None:
            unnamed.add(file.name.removesuffix(ending))
            faults.append(
                f"{file}: an image is named with its channel in four digits; the only channel is "
                f"{file.name.removesuffix(ending)}_0000{ending}"
            )
        else:
            channels.setdefault(match["name"], {})[int(match["channel"])] = file
    label_files = {file.name.removesuffix(ending): file for file in _visible_files(folder / labels, ending)}
    for name in sorted(label_files.keys() - channels.keys() - unnamed):
        faults.append(f"{label_files[name]}: a label without image; expected {folder / images / name}_0000{ending}")
    cases = []
    for name in sorted(channels):
        found = sorted(channels[name])
        if found != list(range(len(found))) or not description.takes_files(len(found)):
            expected = ", ".join(f"_{i:04d}" for i in range(len(description.channel_names)))
            faults.append(
                f"{folder / images / name}: expected the channel files {expected}{ending} "
                f"({', '.join(description.channel_names)}), found {', '.join(f'_{i:04d}' for i in found)}"
            )
            continue
        if split == "Tr" and name not in label_files:
            faults.append(
                f"{channels[name][found[0]]}: an image without label; expected {folder / labels / name}{ending}"
            )
        files = tuple(channels[name][i] for i in found)
        cases.append(RawCase(identifier=name, images=files, label=label_files.get(name)))
    return tuple(cases), faults
