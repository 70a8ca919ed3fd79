"""One set of labels for several data sets: classes are the same where they are called the same, whatever their numbers.

What is decided for each data set is what each of its label values becomes. A class that a data set does not know is the
danger: its voxels are there, as background. It is refused unless the user says what that background means.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from umamba.raw.description import DatasetDescription, DatasetError

IGNORE, ABSENT = "ignore", "absent"


@dataclass(frozen=True, kw_only=True)
class LabelWishes:
    """What the user says about labels.

    Attributes:
        classes: Names, in the order of their numbers; other labels become background. None takes all.
        missing: For data sets that lack a class: "ignore" (their background is not known), "absent" (it is known to
            occur in none of their cases), a word for each, or None, which refuses.
        rename: Data set -> {its own name: the shared one}; two of its labels may become one.
    """

    classes: Sequence[str] | None = None
    missing: str | Mapping[str, str] | None = None
    rename: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SharedLabels:
    """The labels of several data sets as one set.

    Attributes:
        entries: dataset.json's keys "labels" and, with regions, "regions_class_order".
        numbers: Data set -> what each of its label values becomes.
        unlabelled: Data set -> classes that its background may hold; where there are any it is ignored.
    """

    entries: dict[str, Any]
    numbers: dict[str, dict[int, int]]
    unlabelled: dict[str, tuple[str, ...]]


def share_labels(sources: Mapping[str, DatasetDescription], wishes: LabelWishes) -> SharedLabels:
    """Decide the shared labels.

    Raises:
        DatasetError: Names differ in writing alone, a class is unknown or missing somewhere without a word about it, or
            regions differ.
        ValueError: A wish is malformed or would do nothing.
    """
    _check_wishes(sources, wishes)
    if any(source.regions for source in sources.values()):
        return _share_regions(sources, wishes)
    own = {name: _renamed(source, wishes.rename.get(name, {}), name) for name, source in sources.items()}
    _refuse_alike(own, wishes.classes)
    known = list(dict.fromkeys(shared for names in own.values() for shared in names.values()))
    classes = list(known if wishes.classes is None else wishes.classes)
    if unknown := [name for name in classes if name not in known]:
        raise DatasetError(f"data.classes names {', '.join(unknown)}, which no data set has; there are {_list(known)}.")
    lacking = {name: tuple(c for c in classes if c not in names.values()) for name, names in own.items()}
    how = _how_to_take(lacking, wishes, [c for c in classes if all(c in names.values() for names in own.values())])
    unlabelled = {name: lacking[name] if word == IGNORE else () for name, word in how.items()}
    _check_background(sources, unlabelled)
    ignore = None
    if any(unlabelled.values()) or any(source.ignore_label is not None for source in sources.values()):
        ignore = len(classes) + 1
    numbers = {}
    for name, source in sources.items():
        values = {0: 0 if ignore is None or not unlabelled[name] else ignore}
        for label, shared in own[name].items():
            values[source.labels[label]] = 1 + classes.index(shared) if shared in classes else 0
        if source.ignore_label is not None and ignore is not None:
            values[source.ignore_label] = ignore
        numbers[name] = values
    labels = {"background": 0} | {name: value for value, name in enumerate(classes, start=1)}
    return SharedLabels(
        entries={"labels": labels | ({} if ignore is None else {"ignore": ignore})},
        numbers=numbers,
        unlabelled=unlabelled,
    )


def refuse_names_alike(names: Mapping[str, str], what: str, remedy: str, wanted: Sequence[str] | None = None) -> None:
    """See that no two names are the same but for upper case, blanks and marks (else DatasetError).

    Args:
        names: Name -> where it is from.
        what: They name.
        remedy: What to do.
        wanted: Names that are used, of which one must be concerned; None are all.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"[\W_]+", "", name.casefold()) or name].append(name)
    groups_alike = [
        group for group in groups.values() if len(group) > 1 and (wanted is None or set(group) & set(wanted))
    ]
    alike = [" and ".join(f"{name!r} ({names[name]})" for name in group) for group in groups_alike]
    if alike:
        raise DatasetError(f"{what} that differ in their writing alone: {'; '.join(alike)}. {remedy}")


def _check_wishes(sources: Mapping[str, object], wishes: LabelWishes) -> None:
    classes, missing = wishes.classes, wishes.missing
    if classes is not None and (
        isinstance(classes, str) or not classes or len(set(classes)) != len(classes) or "background" in classes
    ):
        raise ValueError(
            f"data.classes must be a list of names, each once and without the background, or null; it is {classes!r}."
        )
    words = missing if isinstance(missing, Mapping) else {} if missing is None else {"all of them": missing}
    if wrong := [f"{name}: {word!r}" for name, word in words.items() if word not in (IGNORE, ABSENT)]:
        raise ValueError(
            f"data.missing says {IGNORE} or {ABSENT}, for all data sets or {{data set: word}}, or null; it has "
            f"{', '.join(wrong)}."
        )
    named = [*wishes.rename, *(missing if isinstance(missing, Mapping) else ())]
    if unknown := [name for name in named if name not in sources]:
        raise ValueError(f"There is no data set called {', '.join(unknown)} among data.sources: {_list(sources)}.")


def _renamed(source: DatasetDescription, names: Mapping[str, str], where: str) -> dict[str, str]:
    """Own name -> shared name of each class."""
    own = [name for name, value in source.labels.items() if value != 0]
    if unknown := [name for name in names if name not in own]:
        raise ValueError(f"data.rename.{where} names {', '.join(unknown)}; its labels are {_list(own)}.")
    return {name: names.get(name, name) for name in own}


def _refuse_alike(own: Mapping[str, Mapping[str, str]], classes: Sequence[str] | None) -> None:
    where: dict[str, str] = {}
    for source, names in own.items():
        for shared in names.values():
            where[shared] = f"{where[shared]}, {source}" if shared in where else source
    refuse_names_alike(
        where,
        "There are labels",
        "Say that they are one class with data.rename={data set: {its name: the other's}}, or give them names of "
        "their own.",
        classes,
    )


def _how_to_take(
    lacking: Mapping[str, tuple[str, ...]], wishes: LabelWishes, shared: Sequence[str]
) -> dict[str, str | None]:
    """What the background of each data set means that lacks a class."""
    missing = wishes.missing
    words = missing if isinstance(missing, Mapping) else dict.fromkeys(lacking, missing)
    undecided = [name for name, gone in lacking.items() if gone and words.get(name) is None]
    if undecided:
        all_have = f": data.classes=[{','.join(shared)}]" if shared else ", which is none"
        raise DatasetError(
            f"Not every data set labels every class: {_gone(lacking, undecided)}. Trained as it is, the network "
            "would learn that these are background wherever they were not labelled. Say which it is: "
            "data.missing=ignore (the background of such data sets is left out of the training, for a class may lie in "
            "it), data.missing=absent (they were looked for and none of these cases has them), or one for each, "
            f"data.missing={{data set: word}}; or train what all have{all_have}."
        )
    idle = [name for name in words if not lacking[name]]
    if idle and (isinstance(missing, Mapping) or (missing is not None and not any(lacking.values()))):
        raise ValueError(f"data.missing would do nothing for {', '.join(idle)}: every class is labelled there.")
    return {name: words.get(name) if gone else None for name, gone in lacking.items()}


def _gone(lacking: Mapping[str, tuple[str, ...]], names: Iterable[str]) -> str:
    return "; ".join(f"{name} has no {', '.join(lacking[name])}" for name in names)


def _check_background(sources: Mapping[str, DatasetDescription], unlabelled: Mapping[str, tuple[str, ...]]) -> None:
    if all(unlabelled.values()):
        raise DatasetError(
            f"With data.missing=ignore no background would be left to learn from, for each data set lacks a class: "
            f"{_gone(unlabelled, unlabelled)}. At least one must label all; take fewer with data.classes=[...]."
        )
    if both := [name for name, gone in unlabelled.items() if gone and sources[name].ignore_label is not None]:
        raise DatasetError(
            f"{', '.join(both)} has an ignore label of its own beside classes that it lacks: its background and what "
            "it ignores would be one. Leave it out, or take classes that it has with data.classes=[...]."
        )


def _share_regions(sources: Mapping[str, DatasetDescription], wishes: LabelWishes) -> SharedLabels:
    if wishes.classes is not None or wishes.missing is not None or wishes.rename:
        raise ValueError("data.classes, data.missing and data.rename are for classes; these data sets have regions.")
    first, *others = sources
    for name in others:
        one, other = (sources[key].regions for key in (first, name))
        if one != other:
            raise DatasetError(
                f"The regions of {first} and {name} differ: {_regions(sources[first])} and {_regions(sources[name])}. "
                "Regions are joined only where names, values and regions_class_order are the same; bring dataset.json "
                "and label files of one to the form of the other."
            )
    regions = sources[first].regions
    values = sorted({value for region in regions for value in region.labels})
    labels: dict[str, Any] = {"background": 0} | {region.name: [*region.labels] for region in regions}
    ignore = values[-1] + 1
    if any(source.ignore_label is not None for source in sources.values()):
        labels["ignore"] = ignore
    numbers = {
        name: {value: value for value in (0, *values)}
        | ({} if source.ignore_label is None else {source.ignore_label: ignore})
        for name, source in sources.items()
    }
    entries = {"labels": labels, "regions_class_order": [region.written for region in regions]}
    return SharedLabels(entries=entries, numbers=numbers, unlabelled=dict.fromkeys(sources, ()))


def _regions(source: DatasetDescription) -> str:
    return ", ".join(f"{r.name} {[*r.labels]} written {r.written}" for r in source.regions) or "classes, no regions"


def _list(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names)
