"""Going on with a prediction: which cases are finished, by the records that earlier calls left beside their files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from umamba.inference.record import identities_of, load_records, stamps_of
from umamba.inference.written import compare_written, kept_of, say_untold
from umamba.raw.dataset import RawCase
from umamba.raw.file_identity import are_same
from umamba.words import listed

log = logging.getLogger(__name__)

_OPTIONS = {"mirror_axes": "mirror", "precision": "precision"}  # of what a network's `made_by` has -> the option


def go_on(
    path: Path, cases: Sequence[RawCase], outputs: Mapping[str, Sequence[Path]], made_by: Mapping[str, Any]
) -> tuple[set[str], dict[str, dict[str, Any]]]:
    """Where a prediction goes on.

    Args:
        path: Of its record; others beside it are of other parts.
        cases: To predict.
        outputs: Case -> its files.
        made_by: Networks and options, of this call.

    Returns:
        The cases that are finished; and what the record says of them and of those of earlier calls, see `kept_of`.

    Raises:
        ValueError: There are files of other networks or options, or it is not known what made them; or some are not
            what was written, for whoever corrected them by hand would lose that.
    """
    records = load_records(path.parent)
    done, record = _finished(path.parent, records, cases, outputs, made_by), records.get(path, {})
    if record and not isinstance(record.get("images"), dict):  # an earlier version: taken to be these
        record["images"] = {case.identifier: identities_of(case.images) for case in cases if case.identifier in done}
    ending = next((paths[0].name.removeprefix(name) for name, paths in outputs.items()), "")
    listed_there = record.get("images", {})
    earlier = {name: [path.with_name(f"{name}{ending}")] for name in listed_there if name not in outputs}
    left: dict[str, Sequence[Path]] = {name: paths for name, paths in earlier.items() if paths[0].is_file()}
    left |= {name: outputs[name] for name in done if name in listed_there}
    return done, kept_of(record, path.parent, left)


def _finished(
    folder: Path,
    records: Mapping[Path, Mapping[str, Any]],
    cases: Sequence[RawCase],
    outputs: Mapping[str, Sequence[Path]],
    made_by: Mapping[str, Any],
) -> set[str]:
    """The cases whose files are all there, written by the same networks in the same way from the same images.

    Files are whole or absent, so one that is there is finished, unless it lay there before.
    """
    there = {name for name, paths in outputs.items() if all(path.is_file() for path in paths)}
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
