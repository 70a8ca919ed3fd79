"""inference.json beside the label maps: what they mean, what made them, what failed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from umamba.files import load_json, write_json
from umamba.inference.seen import ANSWERS
from umamba.inference.seen import KEY as SEEN
from umamba.inference.written import KEY, identities_in
from umamba.names import name_fault
from umamba.planning.plan import Plan
from umamba.raw.dataset import RawCase
from umamba.raw.file_identity import file_stamp, identity_of
from umamba.typed import has_type

_SAVED_EVERY = 10.0  # s: the label maps of so long are made again after a kill
_NAME = re.compile(r"inference(_\d+_of_\d+)?\.json")
_HINTS = {  # of what a record may have
    "meaning": dict | None, "made_by": dict | None, "images": dict[str, list[dict]] | None, "failed": dict | None,
    "seconds": dict[str, float] | None, "replaced": dict[str, list[list[int]]] | None,
    KEY: dict[str, dict[str, dict]] | None, SEEN: dict[str, str] | None,
}  # fmt: skip
Part = tuple[int, int]  # number and how many; every part takes its share of the cases


def parse_part(text: str | None) -> Part:
    """Read "1/4", the second of four parts, as (1, 4); None is (0, 1), all (else ValueError)."""
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
    return sorted(path for path in folder.glob("inference*.json") if _NAME.fullmatch(path.name))


def load_record(path: Path) -> dict[str, Any]:
    """What a record says; earlier versions' do not say all of it.

    Raises:
        ValueError: It is none: what lies beside it may be of any network, and of any cases.
    """
    content = load_json(path)
    told = content if isinstance(content, dict) else {}
    wrong = [key for key, hint in _HINTS.items() if not has_type(told.get(key), hint)]
    if SEEN not in wrong and not set((told.get(SEEN) or {}).values()) <= {*ANSWERS}:
        wrong.append(SEEN)
    if "images" not in wrong and any(map(name_fault, told.get("images") or ())):
        wrong.append("images")
    if wrong or not isinstance(content, dict):
        said = f"{wrong[0]} is {content[wrong[0]]!r:.100}" if wrong else f"it holds {content!r:.100}"
        raise ValueError(f"{path} is no record of a prediction ({said}). Predict again, or remove it.")
    return content


def load_records(folder: Path) -> dict[Path, dict[str, Any]]:
    """What each record in a folder says, see `load_record` (else ValueError)."""
    return {path: load_record(path) for path in find_records(folder)}


def meaning_of(plan: Plan, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """What the values of label maps stand for, as plain data.

    Args:
        plan: The plan that the networks were trained with.
        labels: Names of the classes, or regions, that are in the label maps; None for all.

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
        "regions": {one.name: [*one.labels] for one in plan.regions if labels is None or one.name in labels},
        "ignore_label": plan.ignore_label,
    }


@dataclass(kw_only=True)
class Record:
    """What is written beside label maps.

    Attributes:
        path: The inference.json to write.
        device: Where the networks run.
        meaning: What the values of the label maps stand for, from `meaning_of`.
        made_by: Networks and options, as plain data.
        images: Case -> `identity_of` each of its images, until they are read without the content.
        replaced: Case -> stamps of its files as they were before, until it has new ones.
        seconds: Case -> how long its prediction took.
        failed: Case -> what was wrong with it.
        written: Case -> `identities_in` of its files, taken when they were written.
        trained_on: Case -> whether the networks were trained on it, see `umamba.inference.seen`.
    """

    path: Path
    device: torch.device
    meaning: Mapping[str, Any]
    made_by: Mapping[str, Any]
    images: dict[str, list[dict[str, Any]]]
    replaced: dict[str, list[list[int]]]
    seconds: dict[str, float]
    failed: dict[str, str]
    written: dict[str, dict[str, dict[str, Any]]]
    trained_on: dict[str, str]
    _saved: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def begun(
        cls,
        cases: Sequence[RawCase],
        outputs: Mapping[str, Sequence[Path]],
        before: Mapping[str, Mapping[str, Any]],
        **facts: Any,
    ) -> Self:
        """The record of a prediction that begins.

        Args:
            cases: To be predicted.
            outputs: Case -> its files.
            before: What `kept_of` has given of the cases that are left.
            **facts: path, device, meaning, made_by and failed.
        """
        stamps = {case.identifier: [{"stamp": stamp} for stamp in stamps_of(case.images)] for case in cases}
        return cls(
            images={**before.get("images", {}), **stamps},
            replaced={case.identifier: stamps_of(outputs[case.identifier]) for case in cases},
            seconds=dict(before.get("seconds", {})),
            written=dict(before.get(KEY, {})),
            trained_on=dict(before.get(SEEN, {})),
            **facts,
        )

    def wrote(self, name: str, files: Sequence[Path]) -> None:
        """Note the files of a case, which were written just now; threads may call it, and now and then it is saved."""
        made = identities_in(self.path.parent, files)
        with self._lock:
            self.written[name] = made
            if time.monotonic() - self._saved > _SAVED_EVERY:
                self.save()

    @contextmanager
    def saved_when_stopped(self) -> Iterator[None]:
        """Save it if the block is left by an error or a signal, so that what was written until then is known."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # that of the block is the one to be said
                self.save()
            raise

    def save(self) -> None:
        """Write it."""
        self._saved = time.monotonic()
        cuda = self.device.type == "cuda"
        content = {
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "peak_vram_gib": torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else None,
            "seconds": self.seconds,
            "failed": dict(self.failed),  # copied, for other threads go on filling them
            "meaning": self.meaning,
            "made_by": self.made_by,
            "images": dict(self.images),
            "replaced": self.replaced,
            KEY: dict(self.written),
            SEEN: dict(self.trained_on),
        }
        write_json(content, self.path)


def stamps_of(paths: Sequence[Path]) -> list[list[int]]:
    """Stamps of those files that are there."""
    return [file_stamp(path) for path in paths if path.is_file()]


def identities_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Identities of files, to be taken before these are used; none where one cannot be read."""
    try:
        return [identity_of(path) for path in paths]
    except OSError:
        return []
