"""The files of cases that dataset.json lists by path, under "dataset" (nnU-Net >= 2.2), instead of by their names."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from umamba.raw.description import DatasetDescription, DatasetError, raise_faults

log = logging.getLogger(__name__)

_SHOWN = 5  # cases in one line

Files = tuple[tuple[Path, ...], Path]  # images, in the order of the channels, and label


def listed_files(folder: Path, listing: object, path: Path, description: DatasetDescription) -> dict[str, Files]:
    """Images and label of each case, sorted by its name.

    Paths are relative to the folder and may, as in nnU-Net, hold variables of the environment: ``$SCANS/a.nii.gz``.

    Raises:
        DatasetError: It is malformed, a file does not exist, or one is listed twice where that cannot be meant.
    """
    if not isinstance(listing, dict):
        raise DatasetError(f"it must map case names to images and label, it is a {type(listing).__name__}.")
    cases: dict[str, Files] = {}
    for name, entry in sorted(listing.items()):
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(images, list) or not all(isinstance(file, str) for file in (*images, label)):
            raise DatasetError(f"case {name!r} needs images (a list of paths) and label (a path).")
        if not description.takes_files(len(images)):
            raise DatasetError(
                f"case {name!r} lists {len(images)} image(s); expected is one for each channel, in the order "
                f"{', '.join(description.channel_names)}."
            )
        *files, label_file = (folder / os.path.expandvars(file) for file in (*images, label))
        cases[name] = tuple(files), label_file
    absent = [str(file) for images, label in cases.values() for file in (*images, label) if not file.is_file()]
    raise_faults(absent, "it lists files that do not exist")
    raise_faults(list(_listed_twice(cases)), "it lists files twice")
    _warn_of_shared_images(cases, path)
    return cases


def _listed_twice(cases: Mapping[str, Files]) -> Iterator[str]:
    """Files that are two things at once: one case would be in training and validation, or a channel be another's."""
    labels = {label.resolve() for _, label in cases.values()}
    known: dict[tuple[Path, ...], str] = {}
    for name, (images, label) in cases.items():
        files = tuple(file.resolve() for file in images)
        for image, file in zip(images, files, strict=True):
            if file in labels:
                yield f"{image} is an image of {name}, and a label"
        if len(set(files)) < len(files):
            yield f"{name} has one file for two channels: {', '.join(map(str, images))}"
        other = known.setdefault((*files, label.resolve()), name)
        if other != name:
            yield f"{other} and {name} have the same images and label"


def _warn_of_shared_images(cases: Mapping[str, Files], path: Path) -> None:
    """Say which images several cases have, as where several people labelled one."""
    owners: dict[Path, list[str]] = defaultdict(list)
    for name, (images, _) in cases.items():
        owners[images[0].resolve()].append(name)
    shared = {image: names for image, names in owners.items() if len(names) > 1}
    if shared:
        image, names = next(iter(shared.items()))
        log.warning(
            "%s lists %d image(s) for several cases each, such as %s for %s. Keep these in one fold, with "
            "data.split_by or a splits_final.json: else a network is validated with what it was trained on.",
            path, len(shared), image, ", ".join(names[:_SHOWN]),
        )  # fmt: skip
