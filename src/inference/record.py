"""inference.json beside the label maps: what they mean, what made them, what failed; and going on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from umamba.files import write_json
from umamba.planning.plan import Plan

Part = tuple[int, int]  # number and how many; every part takes its share of the cases


def parse_part(text: str | None) -> Part:
    """Read "1/4", the second of four parts, as (1, 4); None is (0, 1), all.

    Raises:
        ValueError: It is no such text.
    """
    if text is None:
        return 0, 1
    number, _, count = str(text).partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"part is {text!r}; expected NUMBER/COUNT with NUMBER from 0 on, such as 0/4, 1/4, 2/4, 3/4.")
    return int(number), int(count)


def record_path(folder: Path, part: Part) -> Path:
    """Every part has a record of its own: they may be at work at the same time."""
    return folder / ("inference.json" if part == (0, 1) else f"inference_{part[0]}_of_{part[1]}.json")


def find_records(folder: Path) -> list[Path]:
    """The records in a folder, one of each part."""
    return sorted(folder.glob("inference*.json"))


def finished_cases(folder: Path, outputs: Mapping[str, Sequence[Path]], made_by: Mapping[str, Any]) -> set[str]:
    """The cases whose files are all there, written by the same networks in the same way.

    Files are whole or absent, so one that is there is finished.

    Args:
        folder: Of the outputs and the records.
        outputs: Case -> its files.
        made_by: What a record of the same prediction says.

    Raises:
        ValueError: There are files of other networks or options, or it is not known what made them.
    """
    done = {name for name, paths in outputs.items() if all(path.is_file() for path in paths)}
    records = find_records(folder)
    for path in records:
        before = load_record(path).get("made_by")
        if before != made_by:
            differ = [key for key in made_by if not isinstance(before, dict) or before.get(key) != made_by[key]]
            raise ValueError(
                f"continue=true: {path} is of another prediction (it differs in {', '.join(differ) or 'its options'}), "
                "whose label maps would be mixed with those of this one. Give another output folder."
            )
    if done and not records:
        raise ValueError(
            f"continue=true: {folder} holds label maps ({sorted(done)[0]}, ...) but no inference.json that says what "
            "made them. Give another output folder, or predict them anew with continue=false."
        )
    return done


def meaning_of(plan: Plan, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """What the values of label maps stand for, as plain data.

    Args:
        plan: Of the networks.
        labels: Names of the classes that are in the label maps, the others became background; None for all.

    Returns:
        dataset: The name of the data set that the networks were trained on.
        labels: Class name -> value, of the classes that are there.
        regions: Region name -> values.
        ignore_label: Value of what no network was taught, which no label map holds; or None.
    """
    kept = plan.labels if labels is None else {n: v for n, v in plan.labels.items() if v == 0 or n in labels}
    return {
        "dataset": plan.dataset_name,
        "labels": dict(kept),
        "regions": {name: list(values) for name, values in plan.regions.items()},
        "ignore_label": plan.ignore_label,
    }


def save_record(
    path: Path,
    device: torch.device,
    meaning: Mapping[str, Any],
    made_by: Mapping[str, Any],
    seconds: Mapping[str, float],
    failures: Mapping[str, str],
) -> None:
    """Write a record.

    Args:
        path: Its file.
        device: Of the networks.
        meaning: See `meaning_of`.
        made_by: Networks and options, as plain data.
        seconds: Per case.
        failures: What was wrong with the others.
    """
    cuda = device.type == "cuda"
    content = {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "peak_vram_gib": torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None,
        "seconds": dict(seconds),
        "failed": dict(failures),
        "meaning": dict(meaning),
        "made_by": dict(made_by),
    }
    write_json(content, path)


def load_record(path: Path) -> dict[str, Any]:
    """A record; empty if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
