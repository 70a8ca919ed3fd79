"""The commit of a run's provenance: what the environment says, else git."""

from __future__ import annotations

import subprocess

from umamba.run.provenance import REVISION, git_revision


def test_what_the_environment_says_goes_before_git(monkeypatch) -> None:
    monkeypatch.setenv(REVISION, "0123456789ab")
    assert git_revision() == "0123456789ab"
    monkeypatch.setenv(REVISION, "")

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert git_revision() is None
