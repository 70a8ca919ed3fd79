"""Cross-validation splits as nnU-Net makes them: five folds over the sorted case names, always the same."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from umamba.files import load_json
from umamba.typed import is_whole
from umamba.words import in_words, listed

log = logging.getLogger(__name__)

NUM_FOLDS = 5
_SEED = 12345  # nnU-Net's
SPLITS_FILE = "splits_final.json"


@dataclass(frozen=True, kw_only=True)
class Split:
    """The cases of one fold, each sorted by name."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def make_splits(identifiers: Sequence[str], num_folds: int = NUM_FOLDS, seed: int = _SEED) -> list[Split]:
    """Shuffle the sorted case names once and deal them into folds.

    The same splits as scikit-learn's ``KFold(num_folds, shuffle=True, random_state=seed)``: the first ``n % num_folds``
    folds hold one validation case more than the others.

    Args:
        identifiers: Case names, in any order.
        num_folds: How many folds there are to be.
        seed: Of the shuffling; nnU-Net's is 12345.

    Returns:
        One split for each fold. Each case is in the validation of just one.

    Raises:
        ValueError: There are fewer cases than folds.
    """
    names = np.array(sorted(identifiers))
    if len(names) < num_folds:
        raise ValueError(
            f"{num_folds} folds need at least {num_folds} training cases, there are {len(names)}. "
            "Set fold=all to train on every case."
        )
    order = np.random.RandomState(seed).permutation(len(names))
    splits = []
    for held_out in np.array_split(order, num_folds):
        in_val = np.isin(np.arange(len(names)), held_out)
        splits.append(Split(train=tuple(names[~in_val].tolist()), val=tuple(names[in_val].tolist())))
    return splits


def make_group_splits(identifiers: Sequence[str], split_by: str) -> list[Split]:
    """`make_splits` over groups of cases that stay together, such as the frames of a video or the scans of a patient.

    Args:
        identifiers: Case names.
        split_by: Regular expression; cases are of one group if it finds the same at the beginning of their names.

    Raises:
        ValueError: It is no regular expression, finds nothing in a name, or there are fewer groups than folds.
    """
    try:
        found = {name: re.match(split_by, name) for name in sorted(identifiers)}
    except re.error as error:
        raise ValueError(f"data.split_by={split_by} is no regular expression: {error}.") from error
    without = {name for name, match in found.items() if not match or not match[0]}
    if without:
        raise ValueError(f"data.split_by={split_by} finds nothing at the beginning of {_few(without)}.")
    groups: dict[str, list[str]] = {}
    for name, match in found.items():
        groups.setdefault(match[0] if match else "", []).append(name)
    if len(groups) < NUM_FOLDS:
        raise ValueError(
            f"data.split_by={split_by} makes {len(groups)} group(s) of cases ({_few(set(groups))}); {NUM_FOLDS} folds "
            "need at least as many. Give another expression, or splits of your own in splits_final.json."
        )

    def cases(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(case for name in names for case in groups[name]))

    folds = make_splits(list(groups))
    return [Split(train=cases(fold.train), val=cases(fold.val)) for fold in folds]


def number_of_folds(folders: Sequence[Path]) -> int:
    """How many folds a data set has: those of splits_final.json in the first of the folders that has one, else five.

    Raises:
        ValueError: The file has another form.
    """
    path = _stored(folders)
    return NUM_FOLDS if path is None else len(read_splits(path))


def check_folds(folders: Sequence[Path], folds: Sequence[int], known: Sequence[str]) -> None:
    """See that the folds of a splits_final.json, if there is one, make a cross-validation: known before any is trained.

    Args:
        folders: As for `number_of_folds`.
        folds: Numbers of those that are to be trained.
        known: Every training case; none if the data set is still to be made.

    Raises:
        ValueError: One trains on what it validates with or names a case that does not exist, or two validate with the
            same case.
    """
    path = _stored(folders)
    if path is None:
        return
    holders: dict[str, int] = {}
    for number in folds:
        split = read_splits(path)[number]
        _refuse(f"{path}, fold {number}", "in both train and val", set(split.train) & set(split.val))
        if known:
            _refuse(f"{path}, fold {number}", _unknown(known), {*split.train, *split.val} - set(known))
        _refuse(f"{path}, fold {number}", "in the val of another fold too", holders.keys() & set(split.val))
        holders |= dict.fromkeys(split.val, number)


def _stored(folders: Sequence[Path]) -> Path | None:
    paths = [folder / SPLITS_FILE for folder in folders]
    if gone := [path for path in paths if path.is_symlink() and not path.exists()]:
        raise ValueError(f"{gone[0]} is a link to nothing. Put the file there, or remove it to get the default folds.")
    return next((path for path in paths if path.is_file()), None)


def read_splits(path: Path) -> list[Split]:
    """Read nnU-Net's splits_final.json: a list with one ``{"train": [...], "val": [...]}`` per fold.

    Raises:
        ValueError: The file has another form.
    """
    splits: list[Split] = []
    try:
        content = load_json(path)
        if not content:
            raise ValueError("it has none")
        for fold in content:
            splits.append(Split(train=_names(fold["train"]), val=_names(fold["val"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must be a list of folds {{"train": [case, ...], "val": [case, ...]}} (fold {len(splits)}: '
            f"{in_words(error)}). Correct it, or remove it to get the default five folds."
        ) from error
    return splits


def select_split(
    identifiers: Sequence[str], fold: int | Literal["all"], folders: Sequence[Path] = (), split_by: str | None = None
) -> Split:
    """The training and validation cases of one fold.

    Args:
        identifiers: Every training case.
        fold: Number of the fold, or "all": every case is trained on and validated with (the paper's setting).
        folders: Where a splits_final.json is looked for, in this order; without one the splits are made.
        split_by: See `make_group_splits`; None deals single cases.

    Raises:
        ValueError: There is no such fold; or splits_final.json names cases that do not exist, names one twice, or
            has one in both training and validation; or there is such a file and `split_by` too.
    """
    known = tuple(sorted(identifiers))
    if fold == "all":
        return Split(train=known, val=known)
    path = _stored(folders)
    if path is not None and split_by is not None:
        raise ValueError(
            f"data.split_by={split_by} deals the cases into folds, and so does {path}. Leave one of them out."
        )
    if path is not None:
        splits = read_splits(path)
    else:
        splits = make_splits(known) if split_by is None else make_group_splits(known, split_by)
    if not is_whole(fold) or fold >= len(splits):
        raise ValueError(f'fold must be 0 to {len(splits) - 1} or "all", it is {fold!r}.')
    split = splits[fold]
    if path is not None:
        _check(split, known, f"{path}, fold {fold}")
    return split


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"expected a list of names, there is {names!r}")
    return tuple(sorted(names))


def _check(split: Split, known: Sequence[str], where: str) -> None:
    """Refuse a split that would train on what it validates with, or on something else than the user thinks.

    Raises:
        ValueError: What is wrong, with the names.
    """
    faults = {
        "in both train and val": set(split.train) & set(split.val),
        "named twice": {name for part in (split.train, split.val) for name in part if part.count(name) > 1},
        _unknown(known): {*split.train, *split.val} - set(known),
    }
    for fault, names in faults.items():
        _refuse(where, fault, names)
    if not split.train or not split.val:
        raise ValueError(f"{where} needs at least one training and one validation case.")
    left_out = set(known) - {*split.train, *split.val}
    if left_out:
        log.warning("%s leaves %d case(s) of the data set out: %s.", where, len(left_out), _few(left_out))


def _unknown(known: Sequence[str]) -> str:
    return f"not in the data set (which has {min(known)!r}, ...)"


def _refuse(where: str, fault: str, names: set[str]) -> None:
    if names:
        raise ValueError(
            f"{where}: {len(names)} case(s) {fault}: {_few(names)}. Correct the file, or remove it to get the default "
            "five folds."
        )


def _few(names: set[str]) -> str:
    return listed(list(map(repr, sorted(names))))
