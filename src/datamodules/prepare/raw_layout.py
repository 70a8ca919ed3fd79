"""Writing a data set in nnU-Net's raw layout: all of it or nothing, resumable, with its provenance.

Layout: `imagesTr/NAME_0000.ext`, `labelsTr/NAME.ext`, `imagesTs`, `labelsTs`, `dataset.json`; instance data also has
`instancesTr/NAME.tif` and `instancesTs/NAME.tif` (int32).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from umamba.files import atomic_file, read_json, write_json
from umamba.parallel import map_cases, track

log = logging.getLogger(__name__)
T = TypeVar("T")


def is_raw_dataset(folder: Path) -> bool:
    """Whether `folder` holds a finished data set (dataset.json is the last file that a preparer writes)."""
    return (folder / "dataset.json").is_file()


def build_dataset(target: Path, write: Callable[[Path], dict[str, Any]], recipe: dict[str, Any]) -> Path:
    """Make the raw data set `target` unless it is there; an interrupted attempt is picked up again.

    The cases are written into a hidden folder beside `target`, which is renamed at the end: a folder named `target`
    is always complete.

    Args:
        target: folder to make, e.g. `raw/Dataset004_Hippocampus`.
        write: fills the folder that it is given (skipping files that are there) and returns dataset.json's content.
        recipe: what decides the result (source, seed, ...; JSON). An unfinished folder of another recipe is removed.

    Raises:
        FileExistsError: `target` exists and is not a raw data set.
    """
    if is_raw_dataset(target):  # before the lock: a finished set may lie where nothing can be written
        log.info("%s exists already; delete it to make it again", target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if is_raw_dataset(target):  # another process made it while this one waited
            return target
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(
                f"{target} exists but holds no dataset.json: expected nothing or a raw data set. "
                "Remove the folder, or add its dataset.json if it is your own data"
            )
        partial = target.parent / f".{target.name}.partial"
        stamp = partial / ".recipe.json"
        if partial.exists() and read_json(stamp) != recipe:
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        write_json(recipe, stamp)

        dataset = write(partial)
        with atomic_file(partial / "dataset.json") as path:
            path.write_text(json.dumps(dataset, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in partial.rglob(".*"):
            if path.is_file() and path != stamp:
                path.unlink()  # a file that a killed process was writing
        if target.exists():
            target.rmdir()  # empty, as checked above
        os.replace(partial, target)
        (target / stamp.name).unlink()  # last: without it a finished folder would be made again
    log.info("Made %s: %d training cases", target, dataset["numTraining"])
    return target


def dataset_json(
    *,
    name: str,
    channel_names: Sequence[str],
    labels: Sequence[str],
    num_training: int,
    file_ending: str,
    licence: str,
    reference: str,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """nnU-Net's dataset.json, and beside its keys where the data come from and what they may be used for."""
    return {
        "name": name,
        "channel_names": {str(index): channel for index, channel in enumerate(channel_names)},
        "labels": {"background": 0} | {label: value for value, label in enumerate(labels, start=1)},
        "numTraining": num_training,
        "file_ending": file_ending,
        "licence": licence,
        "reference": reference,
        "provenance": provenance,
    }


def for_each(function: Callable[[T], Any], items: Sequence[T], *, workers: int, description: str) -> None:
    """Apply `function` to every item, in processes if `workers` > 1, under a progress bar.

    Raises:
        DatasetError, OSError: as `function` raised it.
        RuntimeError: `function` failed otherwise; the message names the item.
    """
    for _ in track(map_cases(function, items, str, workers), len(items), description):
        pass
