"""Places that cannot be written to are named in a message, before data are touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import warm_start

UNWRITABLE = pytest.param("/proc/no_such", marks=pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc"))


def said(folder: Path, *command: str) -> str:
    """The error of a call, which must be a message alone."""
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    done = warm_start.run(*command, cwd=folder, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("place", ["file", "file/below", UNWRITABLE])
def test_a_runs_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    message = said(tmp_path, "train.py", f"paths.root={tmp_path}", f"run_dir={tmp_path / place}")
    assert "cannot be made (" in message and str(tmp_path / place) in message
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("key", "named"), [("paths.raw", "data.dataset_dir"), ("paths.prepared", "data.prepared_dir")])
def test_the_folders_of_the_data(tmp_path: Path, key: str, named: str) -> None:
    (tmp_path / "file").touch()
    message = said(
        tmp_path,
        "train.py",
        f"paths.root={tmp_path}",
        f"run_dir={tmp_path / 'run'}",
        f"{key}={tmp_path / 'file' / 'x'}",
    )
    assert f"{named}={tmp_path / 'file' / 'x'}" in message and "file is no folder" in message
    assert not (tmp_path / "data").exists()  # the raw data are not made for nothing
    assert not any((tmp_path / "run").glob("*.yaml"))


@pytest.mark.parametrize(
    "command",
    [
        ("predict.py", "checkpoint=last.ckpt", "input=images"),
        ("eval.py", "predictions=predictions", "references=labelsTr"),
        ("eval.py", "ckpt_path=last.ckpt"),
    ],
)
def test_outputs_of_predictions_and_scores(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    message = said(tmp_path, *command, f"output={tmp_path / 'file'}")  # the other names are not looked at before
    assert f"output={tmp_path / 'file'} cannot be written to" in message
