"""Label maps of several predictions in one folder, which nobody can tell by their names: scores of them are of nothing.

A folder is predicted into again, with another network, with fewer cases, or in parts: what of it belongs together is
told by the records, `umamba.inference.record`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from umamba.inference.going_on import what_differs
from umamba.inference.record import load_records, stamps_of
from umamba.inference.seen import BY_NAME, UNTOLD, YES
from umamba.inference.seen import KEY as SEEN
from umamba.inference.written import compare_written, kept_of, say_untold
from umamba.raw.known_images import WHY_DOUBT
from umamba.words import listed

log = logging.getLogger(__name__)

_OF_OTHER_FILES = ("keep", "probabilities")  # of made_by: what is written beside label maps, and changes none


def check_one_prediction(folder: Path, files: Mapping[str, Path]) -> None:
    """See that label maps which lie in one folder are what one prediction wrote, as far as records there say it.

    Raises:
        ValueError: Records are of different networks or options; or label maps are of none of them: they lay there
            before, or the prediction failed; or they were edited or exchanged since. Names both records, or the cases.
    """
    known = _full_records(folder)
    if not known:
        return
    (first, one), *others = known.items()
    for path, other in others:
        apart = differences(one["made_by"], other["made_by"])
        if apart:
            raise ValueError(
                f"{first} and {path.name} are of two predictions, which differ in {', '.join(apart)}: the label maps "
                f"in {folder} are not of one network. Predict all of them alike, into an empty folder."
            )
    strange = sorted(name for name, path in files.items() if not any(_is_of(name, path, r) for r in known.values()))
    if strange:
        raise ValueError(
            f"{len(strange)} label map(s) in {folder} are not of the prediction that "
            f"{', '.join(path.name for path in known)} there tells of, but lay there before, were put there, or are of "
            f"cases that it failed in: {listed(strange)}. Scores would be of several networks. Predict them again, or "
            "remove them. If they do belong together, as parts that were copied into one folder, remove the record: "
            "nothing is compared then."
        )
    found = compare_written(folder, {name: [path] for name, path in files.items()}, list(known.values()))
    if found.changed:
        raise ValueError(
            f"{len(found.changed)} label map(s) in {folder} are not what the prediction wrote, but were edited, "
            f"exchanged or damaged since: {listed(found.changed)}. Scores would be of other label maps than those of "
            f"the networks that {', '.join(path.name for path in known)} there names. Remove these files and predict "
            "again with continue=true; label maps that were changed on purpose are scored in a folder of their own, "
            "without that record."
        )
    if found.unsaid:
        raise ValueError(
            f"The prediction in {folder} was cut off, or goes on: nothing says whether {len(found.unsaid)} label "
            f"map(s) are what it wrote: {listed(found.unsaid)}. Let it end with continue=true, and score then."
        )
    say_untold(found, folder)


def changed_since(files: Mapping[str, Path]) -> set[str]:
    """Cases whose label maps are not what the predictions wrote, as far as records beside them say it; they are said.

    Args:
        files: Case -> its label map; they may lie in several folders.
    """
    changed: set[str] = set()
    for folder in sorted({path.parent for path in files.values()}):
        known = list(_full_records(folder).values())
        own = {name: [path] for name, path in files.items() if path.parent == folder}
        found = compare_written(folder, own, known).changed
        changed |= set(found)
        if found:
            log.warning(
                "%d label map(s) in %s were edited, exchanged or damaged since they were predicted and scored, and are "
                "not shown: %s.", len(found), folder, listed(found),
            )  # fmt: skip
    return changed


def check_unseen(folder: Path, cases: Set[str], *, allowed: bool) -> str:
    """See that stored label maps are of cases that the networks which made them were not trained on.

    Returns:
        What is to be said beside the scores; "" for nothing.

    Raises:
        ValueError: Some are, and it is not allowed; names them.
    """
    records = list(_full_records(folder).values())
    answers = {name: answer for record in records for name, answer in (record.get(SEEN) or {}).items() if name in cases}
    seen, named, doubtful = (
        sorted(name for name, answer in answers.items() if answer == one) for one in (YES, BY_NAME, UNTOLD)
    )
    if seen and not allowed:
        raise ValueError(
            f"The networks that made the label maps in {folder} were trained on {len(seen)} of the {len(cases)} cases "
            f"to be scored: {listed(seen)}. Their scores would say nothing of new cases. Score others, or say "
            "seen_cases=true to have them scored and the tables say so."
        )
    if named:
        log.warning(
            "%d case(s) are called like cases that the networks in %s were trained on, and are not known to be the "
            "same images: %s. If they were only converted, their scores say nothing of new cases.",
            len(named), folder, listed(named),
        )  # fmt: skip
    if doubtful:
        log.warning(
            "Nobody can tell whether the networks in %s were trained on %d of the cases to be scored: %s. %s",
            folder, len(doubtful), listed(doubtful), WHY_DOUBT,
        )  # fmt: skip
    if records and not cases <= answers.keys():
        log.info("%s does not say of all cases whether the networks were trained on them.", folder)
    return f"{len(seen)} of {len(cases)} cases were trained on: no measure of new ones." if seen else ""


def begin(folder: Path, record: Path, made_by: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """Before a prediction is written into a folder: remove the records of others, which are of no use any more.

    Label maps stay. Those that are of other predictions are named in a warning.

    Returns:
        Of cases that the same prediction has made before and this call does not make, what its record says of them,
        see `kept_of`.

    Raises:
        ValueError: Label maps that would be replaced were edited since they were predicted.
    """
    records = load_records(folder)
    _check_replaced(folder, records, files)
    before: dict[str, Any] = {}
    left = {path.name for path in files.values()}
    ending = next((path.name.removeprefix(name) for name, path in files.items()), "")
    for path, known in records.items():
        same = _says_all(known) and not differences(known["made_by"], made_by)
        mine = {name: folder / f"{name}{ending}" for name in known["images"]} if same else {}
        kept = {name: file for name, file in mine.items() if name not in files and _is_of(name, file, known)}
        left |= {file.name for file in kept.values()}
        if path == record:
            before = kept_of(known, folder, {name: [file] for name, file in kept.items()})
        elif not same and "made_by" in known:
            path.unlink(missing_ok=True)
    others = sorted(path.name for path in folder.glob(f"*{ending}") if path.name not in left) if ending else []
    if others:
        log.warning(
            "%d label map(s) of other predictions lie in %s too, and are left: %s. Scores of the folder would mix them "
            "with those of this one, and are refused.", len(others), folder, listed(others),
        )  # fmt: skip
    return before


def _check_replaced(folder: Path, records: Mapping[Path, dict[str, Any]], files: Mapping[str, Path]) -> None:
    """See that no label map is replaced whose record says that somebody has changed it: that work would be lost."""
    known = [record for record in records.values() if _says_all(record)]
    changed = compare_written(folder, {name: [path] for name, path in files.items() if path.is_file()}, known).changed
    if changed:
        raise ValueError(
            f"{len(changed)} label map(s) in {folder} were edited, exchanged or damaged since they were predicted, and "
            f"would be replaced: {listed(changed)}. What was corrected by hand would be lost: move these files away to "
            "keep them, or remove them."
        )


def _full_records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Those of them that say what made which label maps; earlier versions' do not."""
    return {path: record for path, record in load_records(folder).items() if _says_all(record)}


def _says_all(record: Mapping[str, Any]) -> bool:
    """Whether it is of a version that says what made which label maps."""
    return all(isinstance(record.get(key), dict) for key in ("made_by", "images", "replaced", "failed"))


def _is_of(name: str, path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a label map is of the prediction that a record tells of."""
    lay_there = [stamp for stamps in record["replaced"].values() for stamp in stamps]
    there = stamps_of([path])
    return name in record["images"] and name not in record["failed"] and bool(there) and there[0] not in lay_there


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what the `made_by` of two predictions differ, beside what changes no label map."""
    return [key for key in what_differs(one, other) if key not in _OF_OTHER_FILES]
