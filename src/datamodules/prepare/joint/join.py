"""Several raw data sets as one: links to their images, label maps with shared numbers, folds that are each one's own.

Nothing is changed in the data sets. Cases are called ``<data set>_<case>``; dataset.json says of which data set each
is and how its labels were renumbered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from umamba.datamodules.prepare.joint import recipe as recipes
from umamba.datamodules.prepare.joint.checks import check_together, refuse_target, refuse_twice
from umamba.datamodules.prepare.joint.folds import join_folds
from umamba.datamodules.prepare.joint.labels import LabelWishes, SharedLabels, share_labels
from umamba.datamodules.prepare.raw_layout import build_dataset, dataset_json, for_each, is_raw_dataset
from umamba.datamodules.prepare.volumes import copy_file
from umamba.datamodules.splits import SPLITS_FILE
from umamba.files import write_json
from umamba.raw.dataset import RawCase, RawDataset
from umamba.raw.description import DatasetError, read_dataset_json
from umamba.raw.file_identity import parts_of, spacing_files
from umamba.raw.readers import read_label, write_label
from umamba.raw.sources import KEY

_SHOWN = 5


def join(sources: Mapping[str, Path], target: Path, wishes: LabelWishes, *, images: str, workers: int = 0) -> Path:
    """Make one raw data set of several; one that is there is kept if it is what would be made.

    Raises:
        FileNotFoundError: A data set is not there.
        DatasetError: The data sets do not go together; names what differs.
        ValueError: The options are wrong, or `target` was made of other data or with other options.
        OSError: The file system takes no links, or the disk is full.
    """
    if images not in ("link", "copy"):
        raise ValueError(f"data.images must be link or copy, it is {images!r}.")
    opened = {name: RawDataset.open(folder) for name, folder in sources.items()}
    refuse_target(target, sources)
    recipe = {
        "sources": {name: recipes.state_of(raw) for name, raw in opened.items()},
        **recipes.plain(wishes),
        "images": images,
    }
    if is_raw_dataset(target):
        recipes.check_is_of(target, recipe)
        return target
    channels = check_together(opened)
    shared = share_labels(opened, wishes)
    cases = {name: _renamed_cases(name, raw) for name, raw in opened.items()}
    folds = join_folds(opened)
    refuse_twice(opened, cases, max(1, workers))

    def write(folder: Path) -> dict[str, Any]:
        jobs = [
            _Job(
                case=case,
                name=new,
                split=split,
                ending=raw.file_ending,
                channels=channels[name],
                numbers=shared.numbers[name],
                images=images,
            )
            for name, raw in opened.items()
            for split, some in (("Tr", raw.training_cases), ("Ts", raw.test_cases))
            for case, new in zip(some, cases[name][split], strict=True)
        ]
        for_each(partial(_write_case, folder), jobs, workers=workers, description=f"Joining {', '.join(sources)}")
        if folds is not None:
            write_json(folds, folder / SPLITS_FILE)
        return _describe(target, opened, cases, shared, recipe)

    return build_dataset(target, write, recipe)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One case, what it becomes."""

    case: RawCase
    name: str
    split: str
    ending: str
    channels: list[int]
    numbers: dict[int, int]
    images: str

    def __str__(self) -> str:
        return self.name


def _write_case(folder: Path, job: _Job) -> None:
    case = job.case
    order = job.channels if len(case.images) == len(job.channels) else range(len(case.images))  # one picture has all
    for channel, index in enumerate(order):
        source = case.images[index]
        _put(source, folder / f"images{job.split}" / f"{job.name}_{channel:04d}{job.ending}", job.images)
        for spacing in [part for part in parts_of(source) if part in spacing_files(source)][:1]:
            _put(spacing, folder / f"images{job.split}" / f"{job.name}.json", job.images)
    if case.label is None:
        return
    label, geometry = read_label(case.label)
    if strange := sorted(set(np.unique(label).tolist()) - set(job.numbers)):
        raise DatasetError(
            f"{case.label} holds the values {strange[:_SHOWN]}, which its dataset.json does not declare (it has "
            f"{sorted(job.numbers)}). Add them to labels, or correct the file."
        )
    table = np.zeros(max(job.numbers) + 1, np.int16)
    table[list(job.numbers)] = list(job.numbers.values())
    write_label(table[label], folder / f"labels{job.split}" / f"{job.name}{job.ending}", geometry)


def _put(source: Path, target: Path, how: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if how == "copy":
        copy_file(source, target)
        return
    target.unlink(missing_ok=True)  # of an attempt that was stopped
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise OSError(
            f"{target} cannot be made a link to {source} ({error.strerror}). Use data.images=copy, which takes the "
            "room of all images once more."
        ) from error


def _renamed_cases(source: str, raw: RawDataset) -> dict[str, list[str]]:
    parts = {"Tr": raw.training_cases, "Ts": raw.test_cases}
    return {split: [f"{source}_{case.identifier}" for case in cases] for split, cases in parts.items()}


def _describe(
    target: Path,
    opened: Mapping[str, RawDataset],
    cases: Mapping[str, Mapping[str, Sequence[str]]],
    shared: SharedLabels,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    first = next(iter(opened.values()))
    contents = {name: read_dataset_json(raw.folder / "dataset.json") for name, raw in opened.items()}
    said = {
        key: "; ".join(f"{name}: {content.get(key, 'not stated')}" for name, content in contents.items())
        for key in ("licence", "reference")
    }
    description = dataset_json(
        name=target.name,
        channel_names=first.channel_names,
        labels=(),
        num_training=sum(len(raw.training_cases) for raw in opened.values()),
        file_ending=first.file_ending,
        provenance={"joined of": {name: str(raw.folder.resolve()) for name, raw in opened.items()}},
        **said,
    )
    sources = {
        name: {
            "folder": str(raw.folder.resolve()),
            "values": {str(old): new for old, new in shared.numbers[name].items()},
            "unlabelled": [*shared.unlabelled[name]],
            "cases": [*cases[name]["Tr"], *cases[name]["Ts"]],
        }
        for name, raw in opened.items()
    }
    return description | shared.entries | {KEY: sources, recipes.KEY: recipe}
