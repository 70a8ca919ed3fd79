"""The commands that a run names at its end can be given as they stand."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from umamba.run.announcement import conclude


@pytest.mark.parametrize("name", ["run", "my runs/seed=1,2", "läufe/it's (1)", "a$b"])
def test_paths_survive_shell_and_hydra(name: str, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / name
    conclude(folder, ["mymix"])
    found = {}
    for line in caplog.messages[0].splitlines()[1:]:
        words = shlex.split(line.partition(": ")[2])
        for override in OverridesParser.create().parse_overrides(words[2:]):
            value = override.value()
            found[override.key_or_group] = getattr(value, "text", value)
    last = str(folder / "checkpoints" / "last.ckpt")
    assert (found["checkpoint"], found["ckpt_path"], found["run_dir"]) == (last, last, str(folder))
    assert found["trusted"] == ["mymix"]


def test_below_the_present_folder_paths_are_short(tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    conclude(tmp_path / "logs" / "a", [])
    assert re.search(r"run_dir=logs/a trainer", caplog.text) and "trusted" not in caplog.text
