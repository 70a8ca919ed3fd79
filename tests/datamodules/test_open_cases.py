"""Cases that stay open between samples: the ones used last, small ones decoded, and each process its own."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from miniatures import make_volumes

from umamba.datamodules import open_cases
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.open_cases import OpenCases, room_for_cases

SIZE = 10


class Case:
    """Of some bytes."""

    def __init__(self, identifier: str, *, is_decoded: bool = False) -> None:
        self.identifier, self.nbytes, self.is_decoded = identifier, SIZE * len(identifier), is_decoded

    def decoded(self) -> Case:
        return Case(self.identifier, is_decoded=True)


class Store:
    """Notes what is opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def case(self, identifier: str) -> Case:
        self.opened.append(identifier)
        return Case(identifier)


def test_the_cases_used_last_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_cases, "_MOST_OPEN", 2)
    store = Store()
    cases = OpenCases(store)
    assert [cases(name).identifier for name in "abacab"] == list("abacab")
    assert store.opened == list("abcb") and not cases("a").is_decoded


def test_another_process_opens_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    cases = OpenCases(store, SIZE)
    cases("a")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    assert cases("a").is_decoded
    assert store.opened == ["a", "a"]
    sent = pickle.loads(pickle.dumps(cases))
    assert sent("a").is_decoded and sent.store.opened == ["a", "a", "a"]


def test_small_cases_are_decoded_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_cases, "_SMALL", 2 * SIZE)
    cases = OpenCases(Store(), 4 * SIZE)
    names = ["a", "bbb", "cc", "dd", "e", "f", "a", "bbb", "e", "cc"]  # of 1, 3, 2 ... times the size
    assert [cases(name).is_decoded for name in names] == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert cases.store.opened == ["a", "bbb", "cc", "dd", "e", "f"]


def test_room_is_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_cases, "free_memory", lambda: 8 << 30)
    assert room_for_cases(1) == 1 << 30 and room_for_cases(4) == 1 << 28 and room_for_cases(0) == 1 << 30
    monkeypatch.setattr(open_cases, "free_memory", lambda: 1 << 50)
    assert room_for_cases(2) == 2 << 30


def test_a_decoded_case_is_the_stored_one(tmp_path: Path) -> None:
    make_volumes(tmp_path / "raw", channels=("CT", "MR"), labels=("liver", "spleen"))
    datamodule = SegmentationDataModule(dataset_dir=tmp_path / "raw", prepared_dir=tmp_path / "prepared")
    datamodule.prepare_data()
    stored = datamodule.store.case(datamodule.train_ids[0])
    case = OpenCases(datamodule.store, 1 << 30)(stored.identifier)
    for name in ("data", "label"):
        array = getattr(case, name)
        assert isinstance(array, np.ndarray) and array.dtype == getattr(stored, name).dtype
        np.testing.assert_array_equal(array, getattr(stored, name)[:])
    assert case.nbytes == stored.nbytes == case.data.nbytes + case.label.nbytes
    assert case.class_locations.keys() == stored.class_locations.keys() == {1, 2}
    before = case.data.copy()
    for batch in datamodule.train_dataloader():  # augmented in place, but for the case
        assert batch["image"].shape[1] == 2
        break
    dataset = datamodule.train_dataloader().dataset
    first = dataset[0]["image"].clone()
    dataset[0]["image"].zero_()
    assert (dataset[0]["image"] == first).all()
    np.testing.assert_array_equal(case.data, before)
