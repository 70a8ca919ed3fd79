"""Cases that stay open between samples: few of them, the ones used last, and each process its own."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace

import pytest

from umamba.datamodules import patches


class Store:
    """Notes what is opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def case(self, identifier: str) -> SimpleNamespace:
        self.opened.append(identifier)
        return SimpleNamespace(identifier=identifier)


def test_the_cases_used_last_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_MOST_OPEN", 2)
    store = Store()
    cases = patches._OpenCases(store)
    assert [cases(name).identifier for name in "abacab"] == list("abacab")
    assert store.opened == list("abcb")


def test_another_process_opens_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    cases = patches._OpenCases(store)
    cases("a")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    cases("a")
    assert store.opened == ["a", "a"]
    sent = pickle.loads(pickle.dumps(cases))
    assert sent("a").identifier == "a" and sent.store.opened == ["a", "a", "a"]
