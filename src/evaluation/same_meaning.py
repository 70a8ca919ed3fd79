"""Whether a data set gives channels and label values the meaning that a checkpoint or its label maps have."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from umamba.evaluation.members import Member
from umamba.files import load_json
from umamba.inference.record import find_records, load_record
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetDescription, parse_labels
from umamba.words import in_words

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"Dataset\d{3}_", re.IGNORECASE)  # how nnU-Net's folders of data sets begin


def check_same_meaning(member: Member, raw: RawDataset) -> None:
    """See that a checkpoint and the data set that it is to be scored on mean the same by their numbers.

    A network knows channels and classes by number alone, and scores are of a number under the checkpoint's name: where
    a dataset.json numbers them otherwise, one class would be scored under the name of another. Names of channels are
    the same in upper and lower case, as they are when "CT" is looked for.

    Raises:
        ValueError: Labels, regions, ignore label or channels differ; names both sides of each.
    """
    plan = member.plan
    sides = {
        "labels": (_foreground(plan["labels"]), _foreground(raw.labels)),
        "regions": (_outputs(plan.get("regions") or ()), _outputs(map(asdict, raw.regions))),
        "ignore label": (plan.get("ignore_label"), raw.ignore_label),
        "channels": tuple([name.casefold() for name in names] for names in (plan["channel_names"], raw.channel_names)),
    }
    shown = {
        "labels": (dict(plan["labels"]), dict(raw.labels)),
        "channels": ([*plan["channel_names"]], [*raw.channel_names]),
    }
    apart = []
    for what, (one, other) in sides.items():
        if one != other:
            one, other = shown.get(what, (one, other))
            apart.append(f"{what} {one} in the checkpoint, {other} there")
    if apart:
        raise ValueError(
            f"{member.path} was trained with another meaning of channels or label values than "
            f"{raw.folder / 'dataset.json'} declares: {'; '.join(apart)}. Its predictions would be scored under wrong "
            "names. Bring files and dataset.json of the data set into the checkpoint's order and numbers, or point "
            "data.dataset_dir at a data set that has them."
        )


def check_predictions(folder: Path, references: Path, dataset_json: Path, *, other_dataset: bool = False) -> None:
    """See that stored label maps mean by their values what the references do.

    It is compared with what lies beside the label maps: predict.py's inference.json, or the dataset.json of nnU-Net and
    others. Without one nothing is known, which is said.

    Args:
        folder: Where the predicted label maps lie.
        references: Where the references lie.
        dataset_json: The file that says what the references' values mean.
        other_dataset: Whether the networks may have been trained on a data set of another name.

    Raises:
        ValueError: Labels, regions or the data set's name differ, naming both sides of each; or a file is no such JSON.
    """
    reference = DatasetDescription.read(dataset_json)
    names = [reference.name, references.resolve().parent.name]
    known = False
    for path, meaning in _meanings(folder):
        known = True
        sides = {
            "labels": (meaning["labels"], _foreground(reference.labels)),
            "regions": (meaning["regions"], _made_of(reference)),
        }
        apart = [f"{what} {one} there, {other} here" for what, (one, other) in sides.items() if one != other]
        if apart:
            raise ValueError(
                f"{path} says that the label maps beside it have another meaning than {dataset_json} gives the "
                f"references: {'; '.join(apart)}. They would be scored under wrong names. Score predictions of the "
                "same classes, renumber one side, or name the references' own dataset.json with dataset_json=..."
            )
        made_for = meaning["dataset"]
        if made_for is not None and not other_dataset and _bare(made_for) not in map(_bare, names):
            raise ValueError(
                f"{path} says that the label maps beside it are of networks that were trained on the data set "
                f"{made_for}; the references are of {reference.name} ({dataset_json}). If they shall be scored on "
                "another data set than their own, say so with other_dataset=true."
            )
    if not known:
        log.warning(
            "Nothing in %s says what its label values mean (predict.py leaves an inference.json): they are taken to be "
            "those of %s, %s. Whether one network made them, and whether it was trained on these cases, is not known "
            "either.", folder, dataset_json, {**reference.labels, **_made_of(reference)},
        )  # fmt: skip


def _meanings(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files beside label maps that say what these mean, and what they say, as `meaning_of` does."""
    for path in find_records(folder):
        record = load_record(path)
        if "meaning" not in record:  # of an earlier version
            continue
        try:
            meaning = record["meaning"]
            labels, regions = _foreground(meaning["labels"]), _regions(meaning["regions"])
            yield path, {"dataset": str(meaning["dataset"]), "labels": labels, "regions": regions}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{path} is no record of a prediction ({in_words(error)}). Predict again, or remove it."
            ) from error
    path = folder / "dataset.json"
    if path.is_file():
        try:
            content = load_json(path)
            classes, merged, _ = parse_labels(content.get("labels"), content.get("regions_class_order"), path)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no dataset.json ({error}). Correct it or remove it.") from error
        yield (
            path,
            {
                "dataset": content.get("name"),
                "labels": _foreground(classes),
                "regions": {region.name: [*region.labels] for region in merged},
            },
        )


def _bare(name: object) -> str:
    return _NUMBERED.sub("", str(name)).casefold()


def _foreground(labels: Mapping[str, int]) -> dict[str, int]:
    return {name: int(value) for name, value in labels.items() if value != 0}


def _regions(regions: Mapping[str, Any] | None) -> dict[str, list[int]]:
    return {name: sorted(int(value) for value in values) for name, values in (regions or {}).items()}


def _made_of(description: DatasetDescription) -> dict[str, list[int]]:
    return {region.name: [*region.labels] for region in description.regions}


def _outputs(regions: Iterable[Mapping[str, Any]]) -> list[str]:
    """In the order of the outputs, with what is written, as a message shows them."""
    return [f"{one['name']} = {'+'.join(map(str, one['labels']))}, written {one['written']}" for one in regions]
