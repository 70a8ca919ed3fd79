"""A class in one case only: in training, in validation, in none; what is said, drawn and validated."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from miniatures import make_tumours, make_volumes

from umamba.datamodules.custom import CustomDataModule

SHAPE = (16, 24, 36)


def module(raw: Path, fold: int | str, **options) -> CustomDataModule:
    data = CustomDataModule(
        dataset_dir=raw, prepared_dir=raw.parent / "prepared", planning={"base_features": 4}, fold=fold,
        iterations_per_epoch=20, val_iterations=4, batch_size=2, **options,
    )  # fmt: skip
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """The second class is in case_0 only, the third in no case; fold k holds out case_k."""
    raw = make_volumes(
        tmp_path_factory.mktemp("uneven") / "Dataset910_Uneven", labels=("liver", "rare", "never"), shape=SHAPE,
        present=lambda case, label: label == 1 or (label == 2 and case == 0),
    )  # fmt: skip
    names = [f"case_{i}" for i in range(5)]
    folds = [{"train": [name for name in names if name != held], "val": [held]} for held in names]
    (raw / "splits_final.json").write_text(json.dumps(folds))
    return raw


def test_what_a_fold_cannot_learn_is_said(uneven: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    module(uneven, 0)
    assert "No case that is trained on has rare: the network cannot learn it; of those that are held out case_0" in (
        caplog.text
    )
    assert "has never: the network cannot learn it." in caplog.text and "No validation case" not in caplog.text


def test_what_a_fold_cannot_validate_is_said(uneven: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    module(uneven, 1)
    assert "No validation case has rare: pseudo Dice" in caplog.text and "trained on has rare" not in caplog.text


def test_the_one_case_is_centred_on_as_often_as_it_is_drawn(uneven: Path) -> None:
    """nnU-Net draws the case first: a forced patch of it is centred on one of its classes, each as often."""
    data = module(uneven, 1, oversample=1.0, patch_size=[8, 8, 8])
    seen: Counter[str] = Counter()
    for batch in data.train_dataloader():
        for case, label in zip(batch["case"], batch["label"], strict=True):
            seen[case] += 1
            centre = int(label[4, 4, 4])
            seen["rare"] += centre == 2
            assert centre == 1 or (centre == 2 and case == "case_0")
    assert 0 < seen["rare"] < seen["case_0"] < 40


def test_regions_are_known_by_their_place(tmp_path: Path, caplog) -> None:
    raw = make_tumours(tmp_path / "Dataset911_Tumours")
    content = json.loads((raw / "dataset.json").read_text())
    content["labels"] = {"background": 0, "whole": [1, 2, 3, 4], "gone": [4], "core": [2, 3]}
    content["regions_class_order"] = [1, 4, 2]
    (raw / "dataset.json").write_text(json.dumps(content))
    module(raw, 0)
    assert [line for line in caplog.messages if "cannot learn" in line] == [
        "No case that is trained on has gone: the network cannot learn it."
    ]
