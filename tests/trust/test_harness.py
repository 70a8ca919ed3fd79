"""The commands that are attacked are those of the checkout whose tests run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import run


def test_a_relative_pythonpath_holds_in_the_working_folder_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "only_here.py").write_text("print('found')")
    (tmp_path / "work").mkdir()
    others = os.environ.get("PYTHONPATH", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["modules", *filter(None, others.split(os.pathsep))]))
    assert run("-c", "import only_here", folder=tmp_path / "work") == "found\n"
