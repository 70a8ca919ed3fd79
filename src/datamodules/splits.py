"""Cross-validation splits as nnU-Net makes them: five folds over the sorted case names, always the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

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

    Raises:
        ValueError: There are fewer cases than folds.
    """
    names = np.array(sorted(identifiers))
    if len(names) < num_folds:
        raise ValueError(
            f"{num_folds} folds need at least {num_folds} training cases, there are {len(names)}. "
            "Set data.fold=all to train on every case."
        )
    order = np.random.RandomState(seed).permutation(len(names))
    splits = []
    for held_out in np.array_split(order, num_folds):
        in_val = np.isin(np.arange(len(names)), held_out)
        splits.append(Split(train=tuple(names[~in_val].tolist()), val=tuple(names[in_val].tolist())))
    return splits


def read_splits(path: Path) -> list[Split]:
    """Read nnU-Net's splits_final.json: a list with one ``{"train": [...], "val": [...]}`` per fold.

    Raises:
        ValueError: The file has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Split(train=tuple(sorted(fold["train"])), val=tuple(sorted(fold["val"]))) for fold in content]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must be a list of folds {{"train": [case, ...], "val": [case, ...]}} ({error!r}). '
            "Correct it, or remove it to get the default five folds."
        ) from error


def select_split(identifiers: Sequence[str], fold: int | Literal["all"], folders: Sequence[Path] = ()) -> Split:
    """The training and validation cases of one fold.

    Args:
        identifiers: Every training case.
        fold: Number of the fold, or "all": every case is trained on and validated with (the paper's setting).
        folders: Where a splits_final.json is looked for, in this order; without one the splits are made.

    Raises:
        ValueError: There is no such fold, or splits_final.json names cases that do not exist.
    """
    known = tuple(sorted(identifiers))
    if fold == "all":
        return Split(train=known, val=known)
    path = next((folder / SPLITS_FILE for folder in folders if (folder / SPLITS_FILE).is_file()), None)
    splits = make_splits(known) if path is None else read_splits(path)
    if not isinstance(fold, int) or isinstance(fold, bool) or not 0 <= fold < len(splits):
        raise ValueError(f'data.fold must be 0 to {len(splits) - 1} or "all", it is {fold!r}.')
    split = splits[fold]
    unknown = sorted({*split.train, *split.val} - set(known))
    if unknown:
        raise ValueError(
            f"{path} names {len(unknown)} cases that are not in the data set, such as {unknown[0]!r} "
            f"(the data set has {known[0]!r}, ...). Correct it, or remove it to get the default five folds."
        )
    if not split.train or not split.val:
        raise ValueError(f"{path}: fold {fold} needs at least one training and one validation case.")
    return split
