"""What a network was trained on, as run.json keeps it: networks of one name and settings may have seen other cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umamba.files import content_hash
from umamba.raw.image_marks import of_files

_SHOWN = 4  # digits of a hash in a name


def data_of(trained_on: object, files: object) -> dict[str, Any] | None:
    """What a checkpoint's cases say of its training data, as plain data; None where it does not say all.

    Args:
        trained_on: Case -> mark of its first image; those of `init_from` are not among `files`.
        files: Case, trained on or validated with -> marks of its other files.

    Of the marks only what earlier versions have is told, so that their networks are not told apart.

    Returns:
        cases: How many were trained on.
        trained_on: Hash of their names, images and labels.
        set: Hash of names and labels of all cases of the split, the same in all of its folds.
        set_cases: How many these are.
    """
    if not isinstance(trained_on, dict) or not isinstance(files, dict) or not files:
        return None
    images, others = of_files(trained_on), of_files(files)
    own = {name: [images[name], others[name]] for name in others if name in images}
    return {
        "cases": len(own), "trained_on": content_hash(own), "set": content_hash(others), "set_cases": len(others),
    }  # fmt: skip


def sets_apart(sets: Sequence[tuple[tuple[str, int], ...]]) -> list[str]:
    """What to put behind the name of each network of a data set: nothing where all were trained on one set of cases.

    Args:
        sets: Of each, hash and number of cases of the sets of its members; empty where it is unknown.
    """
    known = {one for one in sets if one}
    if len(known) < 2:
        return ["" for _ in sets]
    counts = [tuple(number for _, number in one) for one in known]
    plain = len(set(counts)) == len(counts)  # as many cases as no other set has
    return [" (training set unknown)" if not one else f" (training set {_named(one, plain)})" for one in sets]


def _named(one: tuple[tuple[str, int], ...], plain: bool) -> str:
    return " + ".join(f"of {number}" if plain else f"{digest[:_SHOWN]} of {number}" for digest, number in one)
