"""Of what and how a data set was joined, by which it is known whether it is what would be joined now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umamba.datamodules.prepare.joint.labels import LabelWishes
from umamba.datamodules.splits import SPLITS_FILE
from umamba.files import content_hash, file_hash
from umamba.planning.raw_files import file_key
from umamba.raw.dataset import RawDataset
from umamba.raw.description import read_dataset_json

KEY = "recipe"  # in dataset.json


def state_of(raw: RawDataset) -> dict[str, str]:
    """A data set's files, as the file system tells them, and its dataset.json and folds."""
    files = [path for case in (*raw.training_cases, *raw.test_cases) for path in (*case.images, case.label) if path]
    whole = [path for path in (raw.folder / "dataset.json", raw.folder / SPLITS_FILE) if path.is_file()]
    return {"folder": str(raw.folder.resolve()), "files": content_hash([*map(file_key, files), *map(file_hash, whole)])}


def plain(wishes: LabelWishes) -> dict[str, Any]:
    """What the user says about labels, as JSON has it."""
    missing = wishes.missing
    return {
        "classes": None if wishes.classes is None else [*wishes.classes],
        "missing": dict(missing) if isinstance(missing, Mapping) else missing,
        "rename": {name: dict(names) for name, names in wishes.rename.items()},
    }


def check_is_of(target: Path, recipe: Mapping[str, Any]) -> None:
    """See that a data set that is there is what would be joined now.

    Raises:
        ValueError: It is of other data or was made with other options; names what differs.
    """
    made = read_dataset_json(target / "dataset.json").get(KEY)
    if made is None:
        raise ValueError(f"{target} is a data set that was not joined of others. Give data.dataset_dir another place.")
    for key, value in recipe.items():
        if made.get(key) == value:
            continue
        if key == "sources" and made.get(key, {}).keys() == value.keys():
            changed = [name for name in value if made[key][name] != value[name]]
            what = f"{', '.join(changed)} has other files now than when they were joined, or lies elsewhere"
        else:
            shown = [[*entry] if key == "sources" and entry else entry for entry in (made.get(key), value)]
            what = f"it was made with data.{key}={shown[0]}, asked for is {shown[1]}"
        raise ValueError(
            f"{target} is not what would be joined now: {what}. Delete it to make it anew, give another "
            "data.dataset_dir, or train it as it is with data=custom."
        )
