"""Whether several raw data sets can be made one: what they hold, what their channels are, and no case twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from umamba.datamodules.prepare.joint.labels import refuse_names_alike
from umamba.names import name_fault
from umamba.raw.dataset import RawDataset
from umamba.raw.description import PICTURE_ENDINGS, DatasetError
from umamba.raw.file_identity import file_content, parts_of
from umamba.raw.readers import is_picture, read_geometry
from umamba.words import listed


def refuse_target(target: Path, sources: Mapping[str, Path]) -> None:
    """See that there are several data sets, whose names can begin the names of files, and that none is in the way.

    Raises:
        ValueError: It is not so.
    """
    if len(sources) < 2:
        raise ValueError(f"data.sources needs two data sets or more, it has {', '.join(sources) or 'none'}.")
    for name, folder in sources.items():
        if fault := name_fault(name):
            raise ValueError(f"A data set among data.sources cannot be called {name!r}: {fault}.")
        if target.resolve() == folder.resolve() or folder.resolve() in target.resolve().parents:
            raise ValueError(f"data.dataset_dir={target} is, or lies in, the data set {folder}. Give it another place.")
    if len({folder.resolve() for folder in sources.values()}) < len(sources):
        raise ValueError(f"data.sources names a folder twice: {', '.join(map(str, sources.values()))}.")


def check_together(opened: Mapping[str, RawDataset]) -> dict[str, list[int]]:
    """See that one network can take the images of all (else DatasetError).

    Returns:
        Data set -> which of its channels is the first, second, ... of the joint one.
    """
    (first, one), *others = opened.items()
    where: dict[str, str] = {}
    for name, raw in opened.items():
        for channel in raw.channel_names:
            where.setdefault(channel, name)
        if any((raw.folder / "instancesTr").glob("[!.]*")):
            raise DatasetError(f"{raw.folder} has instance maps (instancesTr): only label maps of classes are joined.")
    refuse_names_alike(where, "There are channels", "Give them one name in dataset.json if they are one.")
    found = {name: _kind(raw) for name, raw in opened.items()}
    orders = {first: list(range(len(one.channel_names)))}
    for name, other in others:
        if other.file_ending != one.file_ending:
            raise DatasetError(f"{first} has {one.file_ending} files, {name} {other.file_ending}. Convert one of them.")
        if found[name] != found[first]:
            raise DatasetError(f"{first} holds {found[first]}, {name} {found[name]}: they cannot train one network.")
        if sorted(other.channel_names) != sorted(one.channel_names):
            raise DatasetError(
                f"The channels differ: {first} has {', '.join(one.channel_names)}, {name} has "
                f"{', '.join(other.channel_names)}. A network takes the same channels of every case; give them one "
                "name in dataset.json if they are the same."
            )
        if other.channel_names == one.channel_names:
            orders[name] = orders[first]
        elif len(set(one.channel_names)) < len(one.channel_names) or one.file_ending in PICTURE_ENDINGS:
            raise DatasetError(
                f"{first} and {name} have their channels in other orders: {', '.join(one.channel_names)} and "
                f"{', '.join(other.channel_names)}. Of pictures, and of channels of one name, they are not rearranged."
            )
        else:
            orders[name] = [other.channel_names.index(channel) for channel in one.channel_names]
    return orders


def refuse_twice(
    opened: Mapping[str, RawDataset], cases: Mapping[str, Mapping[str, Sequence[str]]], workers: int
) -> None:
    """See that no two cases get one name, and that no image is in two data sets (else DatasetError)."""
    names = [name for parts in cases.values() for some in parts.values() for name in some]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(
            f"Two cases would be called {twice[0]}. Call the data sets otherwise: "
            "data.sources={a: folder, b: folder}."
        )
    images = [(s, case.images[0]) for s, raw in opened.items() for case in (*raw.training_cases, *raw.test_cases)]
    with ThreadPoolExecutor(workers) as threads:
        contents = threads.map(file_content, [path for _, path in images])
    known: dict[str, tuple[str, Path]] = {}
    found = []
    for (source, path), content in zip(images, contents, strict=True):
        other, first = known.setdefault(content, (source, path))
        if other != source:
            found.append(f"{first} and {path}")
    if found:
        raise DatasetError(
            f"{len(found)} image(s) are in two data sets: {listed(found, 5, '; ')}. A case must not be "
            "trained on and held out at once, nor have two labels; remove it from one of them."
        )


def _kind(raw: RawDataset) -> str:
    """What the images of a data set are, by the header of its first."""
    path = raw.training_cases[0].images[0]
    if len(parts_of(path)) > 1 and not is_picture(path):
        raise DatasetError(f"{path} keeps its voxels in a file beside it, which goes by its name. Convert the set.")
    geometry = read_geometry(path)
    return f"{geometry.dimension}D images" if geometry.shape[0] > 1 or geometry.dimension < 3 else "single slices"
