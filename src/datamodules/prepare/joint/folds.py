"""The folds of several data sets as one: in each, each data set's own fold of this number.

So what a fold of the whole holds out is what the same fold of each data set alone holds out, and every fold has cases
of each.
"""

from __future__ import annotations

from collections.abc import Mapping

from umamba.datamodules.splits import NUM_FOLDS, SPLITS_FILE, Split, make_splits, read_splits, select_split
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError


def join_folds(opened: Mapping[str, RawDataset]) -> list[dict[str, list[str]]] | None:
    """The content of splits_final.json, cases under their new names; None if the cases do not suffice for five folds.

    Raises:
        DatasetError: A data set has another number of folds.
        ValueError: Its splits_final.json is malformed, see `umamba.datamodules.splits.select_split`.
    """
    own = {name: _folds_of(raw) for name, raw in opened.items()}
    folds = [
        {part: sorted(f"{name}_{case}" for name, some in own.items() for case in getattr(some[fold], part))
         for part in ("train", "val")}
        for fold in range(NUM_FOLDS)
    ]  # fmt: skip
    return folds if all(fold["train"] and fold["val"] for fold in folds) else None


def _folds_of(raw: RawDataset) -> list[Split]:
    known = [case.identifier for case in raw.training_cases]
    path = raw.folder / SPLITS_FILE
    if path.is_file():
        if (count := len(read_splits(path))) != NUM_FOLDS:
            raise DatasetError(
                f"{path} has {count} fold(s); data sets are joined by {NUM_FOLDS} folds of each. Deal its cases into "
                "so many there, or remove the file to have them dealt as nnU-Net does."
            )
        return [select_split(known, fold, (raw.folder,)) for fold in range(NUM_FOLDS)]
    if len(known) >= NUM_FOLDS:
        return make_splits(known)
    return [  # one case each in as many folds as there are cases
        Split(
            train=tuple(case for case in known if case not in known[fold : fold + 1]), val=tuple(known[fold : fold + 1])
        )
        for fold in range(NUM_FOLDS)
    ]
