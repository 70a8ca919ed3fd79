"""What a table of scores was made with and what it cost, as run.json beside the tables; the report reads these."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from umamba.evaluation.identity import grown_by, plan_of, training_of
from umamba.evaluation.members import Member
from umamba.evaluation.pairs import Pair
from umamba.evaluation.scoring import Labelling, Scoring
from umamba.evaluation.table_text import read_scores
from umamba.evaluation.tables import RECORD
from umamba.files import load_json, write_text
from umamba.raw.file_identity import are_same, parts_of
from umamba.words import in_words

VERSION = 2
_CONFIGS_OF_MANY = ("custom", "decathlon")  # configs/data: each stands for any number of data sets
_KINDS: dict[str, type] = dict.fromkeys(("network", "dataset", "configuration", "protocol", "task", "scored"), str)
_KINDS |= {"members": list, **dict.fromkeys(("labels", "plan", "options", "cost", "cases"), dict)}
_OF_MEMBERS = ("network", "fold", "seed", "imported", "training")
_CHUNK = 1 << 24  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the files held that a prediction was made of, when it was made.

    Attributes:
        checkpoints: `digest_of` each.
        images: Case -> `umamba.raw.file_identity.identity_of` each of its images.
    """

    checkpoints: Sequence[str] = ()
    images: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def run_record(
    members: Sequence[Member],
    *,
    dataset: str,
    scored: str,
    protocol: str,
    labelling: Labelling,
    options: Mapping[str, Any],
    cost: Mapping[str, Any],
    pairs: Sequence[Pair],
    contents: Contents | None = None,
) -> dict[str, Any]:
    """Facts about a scored run, as plain data.

    Args:
        members: The checkpoints scored; several are an ensemble.
        dataset: Name of the data set, from `dataset_name`.
        scored: "test", "validation" (cases of the fold), "training" (cases that were trained on) or "out_of_fold" (each
            case by the member that did not see it).
        protocol: The one that the scores were made by, "standard" or "paper/...".
        labelling: What the values of the label maps mean.
        options: What was done beyond the plain prediction, such as {"mirror": True}.
        cost: What the network costs, from `run_cost`.
        pairs: The scored files.
        contents: Hashes of the files that the prediction was made of; None if unknown.
    """
    first, contents = members[0], contents or Contents()
    return {
        "version": VERSION,
        "network": " + ".join(sorted({member.network for member in members})),
        "dataset": dataset,
        "configuration": first.configuration,
        "fold": first.fold,
        "seed": first.seed,
        "protocol": protocol,
        "task": labelling.task,
        "labels": dict(labelling.labels),
        "regions": {name: [*values] for name, values in labelling.regions.items()},
        "scored": scored,
        "checkpoints": [str(member.path.resolve()) for member in members],
        "checkpoints_sha256": list(contents.checkpoints),
        "members": [
            {
                "epochs": member.epochs,
                "global_step": member.global_step,
                "network": member.network,
                "fold": member.fold,
                "seed": member.seed,
                "imported": member.imported["sha256"] if member.imported else None,
                "training": training_of(member),
                "data": None if member.data is None else dict(member.data),
            }
            for member in members
        ],
        "plan": plan_of(first),
        "options": dict(options),
        "cost": dict(cost),
        "cases": {pair.case: content_of(pair.reference.resolve()) for pair in pairs},
        "images": {pair.case: contents.images.get(pair.case, []) for pair in pairs},
        "pairs": [
            {
                "case": pair.case,
                "prediction": str(pair.prediction.resolve()),
                "reference": str(pair.reference.resolve()),
                "images": [str(path.resolve()) for path in pair.images],
            }
            for pair in pairs
        ],
    }


def read_record(path: Path) -> dict[str, Any]:
    """Read a run.json; what one of an older version lacks is taken from the checkpoints and references it names.

    Raises:
        ValueError: It is no such file, or is of an older version and what it lacks is not at hand.
    """
    try:
        record = load_json(path, advice="Score the run again with eval.py.")
        if record.get("version") != VERSION:
            record |= _missing(record)
        if wrong := [key for key, kind in _KINDS.items() if not isinstance(record[key], kind)]:
            raise TypeError(f"{', '.join(wrong)}: of another kind")
        if not record["members"] or any(not set(_OF_MEMBERS) <= set(member) for member in record["members"]):
            raise KeyError("members")
        return record
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of a scored run ({in_words(error)}). Score the run again with eval.py."
        ) from error
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is of an older version and does not say how the run was trained and what its cases hold; what it "
            f"names is not at hand ({error}). Score the run again with eval.py."
        ) from error


def dataset_name(member: Member, dataset_dir: Path) -> str:
    """What to call a data set: by the name of the training's data config, or else of the data set's folder.

    The config's name is taken where the config stands for one data set and it is this one.
    """
    name, trained_with = member.config.get("data_name"), Path(str(member.config["data"].get("dataset_dir", "")))
    folder = dataset_dir.resolve().name
    return name if name and name not in _CONFIGS_OF_MANY and trained_with.name in (folder, dataset_dir.name) else folder


@cache
def content_of(path: Path) -> str:
    """First 16 digits of the SHA-256 of a file; of a .gz, of what is compressed in it."""
    digest = hashlib.sha256()
    for part in parts_of(path):
        with gzip.open(part) if part.suffix == ".gz" else open(part, "rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
    return digest.hexdigest()[:16]


def _missing(record: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 knew neither trainings nor cases, and called every data=custom "custom"."""
    if not record["pairs"]:
        raise FileNotFoundError("it names no pairs of files")
    members = [Member.read(path) for path in record["checkpoints"]]
    pairs = [
        Pair(
            case=entry["case"],
            prediction=Path(entry["prediction"]),
            reference=Path(entry["reference"]),
            images=tuple(map(Path, entry["images"])),
        )
        for entry in record["pairs"]
    ]
    labels_folder = pairs[0].reference.parent
    of_test = labels_folder.name.endswith(("Ts", "Val", "-instance-mask"))
    return run_record(
        members,
        dataset=dataset_name(members[0], labels_folder.parent),
        scored="test" if of_test else "training" if members[0].fold == "all" else "validation",
        pairs=pairs,
        labelling=Labelling(labels=record["labels"], task=record["task"]),
        **{key: record[key] for key in ("protocol", "options", "cost")},
    )


def save_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write run.json, after the scores.csv in the same folder, by whose digest it knows it again."""
    content = {**record, "scores_sha256": digest_of(folder / "scores.csv")}
    write_text(json.dumps(content, indent=1) + "\n", folder / RECORD)


def check_scores(record: Mapping[str, Any], cases: Collection[str], path: Path) -> None:
    """See that a scores.csv is the one that the run.json beside it was written with (else ValueError).

    Args:
        record: Of `read_record`; older ones have no digest of the scores, their cases are compared.
        cases: Names of the cases in scores.csv.
        path: Where scores.csv lies, for the message.
    """
    digest = record.get("scores_sha256")
    # Protocol paper leaves out cases.
    if digest != digest_of(path) if digest is not None else not set(cases) <= set(record["cases"]):
        raise ValueError(
            f"{path} holds other scores than those that {RECORD} beside it tells of: one of the two was replaced or "
            "edited. Score the run again with eval.py."
        )


def is_scored(
    checkpoint: Path | Sequence[Path],
    folder: Path,
    references: Mapping[str, Path] | None = None,
    images: Mapping[str, Sequence[Path]] | None = None,
    scoring: Scoring | None = None,
) -> bool:
    """Whether a folder of tables has the scores of this very checkpoint, to the end: told by contents, not by times.

    Args:
        checkpoint: Its file; or those of several that were scored together.
        folder: With scores.csv and run.json.
        references: Case -> file. Scores of other cases, or with references that hold something else, are none; None
            asks for any.
        images: Case -> files. Scores of images that hold something else are none; None asks for any.
        scoring: Whose growth they must have, and those of protocol standard its NSD tolerances; None asks for any.
    """
    try:
        record = load_json(folder / RECORD)
        kept = record.get("checkpoints_sha256"), record.get("scores_sha256")
        paths = [checkpoint] if isinstance(checkpoint, Path) else checkpoint
        if kept != ([digest_of(path) for path in paths], digest_of(folder / "scores.csv")):
            return False
        cases, protocol, seen = record.get("cases"), record.get("protocol"), record.get("images", {})
        grow = grown_by(record)
    except (OSError, ValueError, AttributeError, KeyError):  # none, or no such record
        return False
    if references is not None and cases != {case: content_of(path.resolve()) for case, path in references.items()}:
        return False
    if images is not None and not all(case in seen and are_same(files, seen[case]) for case, files in images.items()):
        return False
    if scoring is None or grow != scoring.grow:
        return scoring is None
    if protocol != "standard":
        return True
    scores = read_scores(folder / "scores.csv")
    used = scores.groupby("class")["nsd_tolerance"].first().to_dict() if "nsd_tolerance" in scores else {}
    return used == scoring.tolerances


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
