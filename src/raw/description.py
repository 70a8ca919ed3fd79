"""What a dataset.json says: channels, labels, the ending of the files and how many cases there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.files import load_json
from umamba.raw.regions import Region, region_fault, values_of
from umamba.typed import is_whole
from umamba.words import listed

PICTURE_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")
# nnU-Net's readers that give the voxels as they lie in the file, as here; others turn the image first.
READERS = ("SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO")


class DatasetError(ValueError):
    """A fault of the raw data; says what was expected, what came, which file, and what to do."""


def raise_faults(faults: Sequence[str], title: str) -> None:
    """Raise one DatasetError that lists faults of files, if there are any."""
    if faults:
        listing = listed(faults, 10, "\n  ")
        raise DatasetError(f"{title}:\n  {listing}\nRename, add or remove these files, or correct dataset.json.")


@dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """What dataset.json says.

    Attributes:
        name: Name of the data set.
        channel_names: One name per channel; it decides the normalisation ("CT" is special).
        labels: Class name -> value in file order, background (0) included, ignore label left out; of a data set with
            regions the background alone.
        regions: In file order, where a label is declared as a list (see `umamba.raw.regions`); else empty.
        ignore_label: Value of voxels that no loss or metric looks at, or None.
        file_ending: Ending of image and label files, with its dot.
        num_training: ``numTraining``, the number of training cases as declared.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    regions: tuple[Region, ...] = ()
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
        return DatasetDescription.of(read_dataset_json(path), path)

    @classmethod
    def of(cls, content: object, path: Path | str) -> DatasetDescription:
        """As `read`, of the content of a dataset.json; `path` says in messages where it is from.

        Raises:
            DatasetError: See `read`.
        """
        return DatasetDescription(**_parse_description(_object(content, path), Path(path)))

    @property
    def num_label_entries(self) -> int:
        """Entries of dataset.json's labels as nnU-Net counts them: background, ignore label and regions included."""
        return len(self.labels) + len(self.regions) + (self.ignore_label is not None)

    def takes_files(self, count: int) -> bool:
        """Whether a case can have so many image files: one for each channel, or one picture that holds all of them."""
        # How many channels a picture does hold is seen when it is read.
        return count == len(self.channel_names) or (self.file_ending in PICTURE_ENDINGS and count == 1)

    @property
    def foreground(self) -> dict[str, tuple[int, ...]]:
        """What is segmented and scored, classes or regions: name -> the label values it is made of, in file order."""
        return foreground_of(self.labels, self.regions)

    @property
    def allowed_values(self) -> frozenset[int]:
        """Every value that a label file may hold."""
        values = {0, *self.labels.values(), *values_of(self.regions)}
        if self.ignore_label is not None:
            values.add(self.ignore_label)
        return frozenset(values)


def read_dataset_json(path: Path | str) -> dict[str, Any]:
    """The content of a dataset.json as it is, unchecked.

    Raises:
        FileNotFoundError: There is no such file.
        DatasetError: It holds no JSON object.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A raw data set needs a dataset.json with channel_names, labels, numTraining "
            "and file_ending beside imagesTr and labelsTr."
        )
    return _object(load_json(path, DatasetError), path)


def _object(content: object, path: Path | str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DatasetError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
    return content


_OLDER = (
    " It looks like one of the Decathlon or of nnU-Net v1, which name their files otherwise too: umamba prepare "
    "data=decathlon data.decathlon_task=TaskNN_NAME source=FOLDER data.dataset_dir=NEW converts a task, nnU-Net's "
    "nnUNetv2_convert_old_nnUNet_dataset a data set of v1."
)


def _parse_description(content: dict[str, Any], path: Path) -> dict[str, Any]:
    channels = content.get("channel_names", content.get("modality"))
    missing = [key for key in ("labels", "file_ending") if key not in content]
    if channels is None:
        missing.insert(0, "channel_names")
    if missing:
        raise DatasetError(
            f"{path} lacks {', '.join(missing)}. Add what is missing (nnU-Net v2's form of dataset.json)."
            + (_OLDER if "modality" in content and "channel_names" not in content else "")
        )
    reader = content.get("overwrite_image_reader_writer")
    if reader not in (None, "None", *READERS):
        raise DatasetError(
            f"{path}: overwrite_image_reader_writer is {reader!r}; only {', '.join(READERS)} can be followed. One that "
            "turns images before they are used is not built here: turn the files themselves, so that the axes of all "
            "images and labels point alike, and leave the key out."
        )
    if isinstance(channels, dict) and sorted(channels) != sorted(str(i) for i in range(len(channels))):
        raise DatasetError(f'{path}: channel_names must be keyed "0", "1", ...; it has {sorted(channels)}.')
    if not isinstance(channels, dict) or not channels:
        raise DatasetError(f'{path}: channel_names must be an object such as {{"0": "CT"}}, it is {channels!r}.')
    ending = content["file_ending"]
    if ending not in PICTURE_ENDINGS + VOLUME_ENDINGS:
        lossy = " Convert JPEG pictures to .png, and never store labels as JPEG, which changes their values."
        raise DatasetError(
            f"{path}: file_ending {ending!r} is not supported. Use one of "
            f"{', '.join(VOLUME_ENDINGS + PICTURE_ENDINGS)}.{lossy if ending in ('.jpg', '.jpeg') else ''}"
        )
    num_training = content.get("numTraining", len(content.get("dataset") or ()))
    if not is_whole(num_training):
        raise DatasetError(f"{path}: numTraining must be a whole number of cases, it is {num_training!r}.")
    labels, regions, ignore = parse_labels(content["labels"], content.get("regions_class_order"), path)
    return {
        "name": str(content.get("name", path.parent.resolve().name)),
        "channel_names": tuple(str(channels[str(i)]) for i in range(len(channels))),
        "labels": labels,
        "regions": regions,
        "ignore_label": ignore,
        "file_ending": ending,
        "num_training": num_training,
    }


def foreground_of(labels: Mapping[str, int], regions: Sequence[Region]) -> dict[str, tuple[int, ...]]:
    """Classes without the background, or regions if there are any: name -> label values, in the order given."""
    if regions:
        return {region.name: region.labels for region in regions}
    return {name: (int(value),) for name, value in labels.items() if value != 0}


def parse_labels(entries: object, order: object, path: Path) -> tuple[dict[str, int], tuple[Region, ...], int | None]:
    """Split dataset.json's labels into plain classes or regions, and the ignore label.

    Raises:
        DatasetError: They are no valid label set.
    """
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(
            f'{path}: labels must be an object such as {{"background": 0, "liver": 1}}, it is {entries!r}.'
        )
    labels: dict[str, int] = {}
    lists: dict[str, tuple[int, ...]] = {}  # foreground in file order, as a region each
    for name, value in entries.items():
        values = value if isinstance(value, (list, tuple)) and value else [value]
        if not all(is_whole(v) for v in values):
            hint = " (a region maps to a list of them)" if isinstance(value, (list, tuple)) else ""
            if name.isdigit():
                hint = " (this looks like the older form, keyed by number: exchange names and numbers)"
            raise DatasetError(f"{path}: label {name!r} must map to a whole number, it maps to {value!r}{hint}.")
        if len(values) == 1:
            labels[name] = int(values[0])
        if name != "ignore" and [*values] != [0]:
            lists[name] = tuple(sorted(int(v) for v in values))
    if "ignore" in entries and "ignore" not in labels:
        raise DatasetError(f"{path}: the ignore label must be one number, it is {entries['ignore']!r}.")
    if other := [name for name in entries if name != "ignore" and name.strip().casefold() == "ignore"]:
        raise DatasetError(
            f'{path}: label {other[0]!r} would be a class to be learned; the ignore label is called "ignore". Write it '
            "so, or give the class another name."
        )
    ignore = labels.pop("ignore", None)
    if labels.get("background") != 0:
        raise DatasetError(f'{path}: labels must contain "background": 0; they are {entries!r}.')
    if len(set(labels.values())) != len(labels):
        raise DatasetError(f"{path}: two labels share one value in {entries!r}. Give every class its own.")
    regions: tuple[Region, ...] = ()
    if any(len(values) > 1 for values in lists.values()):
        regions = _parse_regions(lists, order, path)
        labels = {"background": 0}
    _check_values(labels, regions, ignore, order, path)
    return labels, regions, ignore


def _check_values(
    labels: Mapping[str, int], regions: Sequence[Region], ignore: int | None, order: object, path: Path
) -> None:
    values = sorted({*labels.values(), *values_of(regions)})
    if values != list(range(len(values))):
        raise DatasetError(
            f"{path}: label values must be consecutive from 0, they are {values}. Renumber the labels in "
            "dataset.json and in the label files."
        )
    if not regions and order is not None and order != [value for value in labels.values() if value]:
        raise DatasetError(
            f"{path}: regions_class_order is {order!r}, but no label is a list: classes that exclude each other have "
            "no order. Leave it out, or give the regions as lists of label values."
        )
    if ignore is not None and ignore <= values[-1]:
        raise DatasetError(f"{path}: the ignore label must be the highest value, it is {ignore} beside {values}.")


def _parse_regions(lists: Mapping[str, tuple[int, ...]], order: object, path: Path) -> tuple[Region, ...]:
    if not isinstance(order, list) or len(order) != len(lists) or not all(is_whole(value) for value in order):
        raise DatasetError(
            f"{path}: labels are lists, so the data set needs regions_class_order: a list with one label value for "
            f"each of {', '.join(lists)}, in this order; it is {'missing' if order is None else repr(order)}. A "
            "predicted voxel gets the value of the last region it lies in."
        )
    regions = tuple(
        Region(name=name, labels=values, written=int(written))
        for (name, values), written in zip(lists.items(), order, strict=True)
    )
    if fault := region_fault(regions):
        raise DatasetError(f"{path}: {fault}.")
    return regions
