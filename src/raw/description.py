"""What a dataset.json says: channels, labels, the ending of the files and how many cases there are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PICTURE_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")


class DatasetError(ValueError):
    """A fault of the raw data; says what was expected, what came, which file, and what to do."""


@dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """What dataset.json says.

    Attributes:
        name: Name of the data set.
        channel_names: One name per channel; it decides the normalisation ("CT" is special).
        labels: Class name -> value in file order, background (0) included, ignore label and regions left out.
        regions: Region name -> its label values, where labels are declared as lists (region-based data sets).
        ignore_label: Value of voxels that no loss or metric looks at, or None.
        file_ending: Ending of image and label files, with its dot.
        num_training: ``numTraining``, the number of training cases as declared.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignore_label: int | None = None
    file_ending: str
    num_training: int

    @classmethod
    def read(cls, path: Path | str) -> DatasetDescription:
        """Read a dataset.json.

        Raises:
            FileNotFoundError: There is no such file.
            DatasetError: The file is no JSON, lacks a key, or its labels are no valid label set.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist. A raw data set needs a dataset.json with channel_names, labels, numTraining "
                "and file_ending beside imagesTr and labelsTr."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} is not valid JSON ({error}). Correct the file.") from error
        if not isinstance(content, dict):
            raise DatasetError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
        return DatasetDescription(**_parse_description(content, path))

    @property
    def num_label_entries(self) -> int:
        """Entries of dataset.json's labels as nnU-Net counts them: background, ignore label and regions included."""
        return len(self.labels) + len(self.regions) + (self.ignore_label is not None)

    @property
    def allowed_values(self) -> frozenset[int]:
        """Every value that a label file may hold."""
        values = {0, *self.labels.values()}
        for region in self.regions.values():
            values.update(region)
        if self.ignore_label is not None:
            values.add(self.ignore_label)
        return frozenset(values)


def _parse_description(content: dict[str, Any], path: Path) -> dict[str, Any]:
    channels = content.get("channel_names", content.get("modality"))
    missing = [key for key in ("labels", "file_ending") if key not in content]
    if channels is None:
        missing.insert(0, "channel_names")
    if missing:
        raise DatasetError(
            f"{path} lacks {', '.join(missing)}. Add what is missing (nnU-Net v2's form of dataset.json)."
        )
    if isinstance(channels, dict) and sorted(channels) != sorted(str(i) for i in range(len(channels))):
        raise DatasetError(f'{path}: channel_names must be keyed "0", "1", ...; it has {sorted(channels)}.')
    if not isinstance(channels, dict) or not channels:
        raise DatasetError(f'{path}: channel_names must be an object such as {{"0": "CT"}}, it is {channels!r}.')
    ending = content["file_ending"]
    if ending not in PICTURE_ENDINGS + VOLUME_ENDINGS:
        raise DatasetError(
            f"{path}: file_ending {ending!r} is not supported. Use one of "
            f"{', '.join(VOLUME_ENDINGS + PICTURE_ENDINGS)}."
        )
    num_training = content.get("numTraining", len(content.get("dataset") or ()))
    if not isinstance(num_training, int) or isinstance(num_training, bool) or num_training < 0:
        raise DatasetError(f"{path}: numTraining must be a whole number of cases, it is {num_training!r}.")
    labels, regions, ignore = parse_labels(content["labels"], path)
    return {
        "name": str(content.get("name", path.resolve().parent.name)),
        "channel_names": tuple(str(channels[str(i)]) for i in range(len(channels))),
        "labels": labels,
        "regions": regions,
        "ignore_label": ignore,
        "file_ending": ending,
        "num_training": num_training,
    }


def parse_labels(entries: object, path: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]], int | None]:
    """Split dataset.json's labels into plain classes, regions and the ignore label.

    Args:
        entries: Of the key "labels".
        path: Of the file, for the message.

    Raises:
        DatasetError: They are no valid label set.
    """
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(
            f'{path}: labels must be an object such as {{"background": 0, "liver": 1}}, it is {entries!r}.'
        )
    labels: dict[str, int] = {}
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in entries.items():
        if isinstance(value, (list, tuple)) and len(value) > 1 and all(_is_whole(v) for v in value):
            regions[name] = tuple(int(v) for v in value)
        elif isinstance(value, (list, tuple)) and len(value) == 1 and _is_whole(value[0]):
            labels[name] = int(value[0])
        elif _is_whole(value):
            labels[name] = int(value)
        else:
            hint = (
                " (this looks like the older form, keyed by number: exchange names and numbers)"
                if name.isdigit()
                else ""
            )
            raise DatasetError(f"{path}: label {name!r} must map to a whole number, it maps to {value!r}{hint}.")
    ignore = labels.pop("ignore", None)
    if labels.get("background") != 0:
        raise DatasetError(f'{path}: labels must contain "background": 0; they are {entries!r}.')
    values = sorted({*labels.values(), *(v for region in regions.values() for v in region)})
    if len(set(labels.values())) != len(labels):
        raise DatasetError(f"{path}: two labels share one value in {entries!r}. Give every class its own.")
    if not regions and values != list(range(len(values))):
        raise DatasetError(
            f"{path}: label values must be consecutive from 0, they are {values}. Renumber the labels in "
            "dataset.json and in the label files."
        )
    if ignore is not None and ignore <= values[-1]:
        raise DatasetError(f"{path}: the ignore label must be the highest value, it is {ignore} beside {values}.")
    return labels, regions, ignore


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
