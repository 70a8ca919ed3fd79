"""inference.json beside the label maps: what they mean, what made them, what failed; and going on with it."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch

from umamba.files import load_json, write_json
from umamba.inference.seen import KEY as SEEN
from umamba.inference.written import KEY, compare_written, identities_in, kept_of, say_untold
from umamba.planning.plan import Plan
from umamba.raw.dataset import RawCase
from umamba.raw.file_identity import are_same, file_stamp, identity_of
from umamba.typed import has_type
from umamba.words import listed

log = logging.getLogger(__name__)

_SAVED_EVERY = 10.0  # s: the label maps of so long are made again after a kill
_NAME = re.compile(r"inference(_\d+_of_\d+)?\.json")
_OPTIONS = {"mirror_axes": "mirror", "precision": "precision"}  # of what a network's `made_by` has -> the option
_HINTS = {  # of what a record may have
    "meaning": dict | None, "made_by": dict | None, "images": dict[str, list[dict]] | None, "failed": dict | None,
    "replaced": dict[str, list[list[int]]] | None, KEY: dict[str, dict[str, dict]] | None, SEEN: dict[str, str] | None,
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
    wrong = [key for key, hint in _HINTS.items() if isinstance(content, dict) and not has_type(content.get(key), hint)]
    if wrong or not isinstance(content, dict):
        said = f"{wrong[0]} is {content[wrong[0]]!r:.100}" if wrong else f"it holds {content!r:.100}"
        raise ValueError(f"{path} is no record of a prediction ({said}). Predict again, or remove it.")
    return content


def finished_cases(
    folder: Path, cases: Sequence[RawCase], outputs: Mapping[str, Sequence[Path]], made_by: Mapping[str, Any]
) -> set[str]:
    """The cases whose files are all there, written by the same networks in the same way from the same images.

    Files are whole or absent, so one that is there is finished, unless it lay there before.

    Raises:
        ValueError: There are files of other networks or options, or it is not known what made them; or some are not
            what was written, for whoever corrected them by hand would lose that.
    """
    there = {name for name, paths in outputs.items() if all(path.is_file() for path in paths)}
    records = {path: load_record(path) for path in find_records(folder)}
    for path, record in records.items():
        before = record.get("made_by")
        if before != made_by:
            differ = what_differs(before if isinstance(before, dict) else {}, made_by)
            raise ValueError(
                f"continue=true: {path} is of another prediction (it differs in {', '.join(differ)}), whose label maps "
                "would be mixed with those of this one. Give another output folder."
            )
    if there and not records:
        raise ValueError(
            f"continue=true: {folder} holds label maps ({sorted(there)[0]}, ...) but no inference.json that says what "
            "made them. Give another output folder, or predict them anew with continue=false."
        )
    if any(not isinstance(record.get(key), dict) for record in records.values() for key in ("images", "replaced")):
        if there:  # an earlier version wrote them
            log.warning("%s does not say which images the label maps there are of: taken to be these.", folder)
        return there
    found = compare_written(folder, {name: outputs[name] for name in sorted(there)}, list(records.values()))
    if found.changed:
        raise ValueError(
            f"continue=true: {len(found.changed)} case(s) in {folder} have files that are not what the prediction "
            f"wrote: they were edited, exchanged or damaged since: {listed(found.changed)}. Remove these files, and "
            "they are made again; keep what was corrected by hand in another folder."
        )
    say_untold(found, folder)
    former = [stamp for record in records.values() for stamps in record["replaced"].values() for stamp in stamps]
    done = {
        case.identifier
        for case in cases
        if case.identifier in there.difference(found.unsaid)
        and (known := [r["images"][case.identifier] for r in records.values() if case.identifier in r["images"]])
        and all(are_same(case.images, identities) for identities in known)
        and not any(stamp in former for stamp in stamps_of(outputs[case.identifier]))
    }
    if there - done:
        log.warning(
            "%d label map(s) in %s are of other images than there are now, of an earlier prediction, or of one that "
            "was cut off before it said what it wrote, and are replaced: %s.",
            len(there - done), folder, listed(sorted(there - done)),
        )  # fmt: skip
    return done


def what_differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what the `made_by` of two predictions differ; of networks of the same weights, with which options they ran."""
    names: set[str] = set()
    for key in sorted(key for key in {*one, *other} if one.get(key) != other.get(key)):
        then, now = one.get(key), other.get(key)
        if key == "networks":
            names |= _of_networks(then, now)
            continue
        inner = set(what_differs(then, now)) if isinstance(then, Mapping) and isinstance(now, Mapping) else {key}
        names |= inner if inner <= {*_OPTIONS.values()} else {key}
    return sorted(names)


def _of_networks(one: Any, other: Any) -> set[str]:
    none: Mapping[str, Any] = {}
    pairs = list(zip_longest(_one_by_one(one), _one_by_one(other), fillvalue=none))
    keys = {key for then, now in pairs for key in {*then, *now} if then.get(key) != now.get(key)}
    return {_OPTIONS[key] for key in keys} if keys and keys <= _OPTIONS.keys() else {"networks"}


def _one_by_one(networks: Any) -> Iterator[Mapping[str, Any]]:
    """Of several plans there is a list for each."""
    for one in networks if isinstance(networks, list) else [networks]:
        if isinstance(one, list):
            yield from _one_by_one(one)
        else:
            yield one if isinstance(one, Mapping) else {"": one}


def go_on(
    path: Path, cases: Sequence[RawCase], outputs: Mapping[str, Sequence[Path]], made_by: Mapping[str, Any]
) -> tuple[set[str], dict[str, dict[str, Any]]]:
    """Where a prediction goes on.

    Returns:
        The cases that are finished; and what the record says of them and of those of earlier calls, see `kept_of`.
    """
    done, record = finished_cases(path.parent, cases, outputs, made_by), load_record(path) if path.is_file() else {}
    if record and not isinstance(record.get("images"), dict):  # an earlier version: taken to be these
        record["images"] = {case.identifier: identities_of(case.images) for case in cases if case.identifier in done}
    ending = next((paths[0].name.removeprefix(name) for name, paths in outputs.items()), "")
    listed_there = record.get("images", {})
    earlier = {name: [path.with_name(f"{name}{ending}")] for name in listed_there if name not in outputs}
    left: dict[str, Sequence[Path]] = {name: paths for name, paths in earlier.items() if paths[0].is_file()}
    left |= {name: outputs[name] for name in done if name in listed_there}
    return done, kept_of(record, path.parent, left)


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
