"""An offline record of W&B is of the place where its folder is now, and otherwise as W&B wrote it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from umamba.run.wandb_log import wandb_logger
from umamba.run.wandb_moved import _START, _as_log, _entries, follow_moved


def artifacts(path: Path):
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record.FromString(data) for data in _entries(path.read_bytes(), path)]
    return [one.artifact for one in records if one.WhichOneof("record_type") == "artifact"]


def paths_in(path: Path) -> list[Path]:
    return [Path(entry.local_path) for one in artifacts(path) for entry in one.manifest.contents]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A run's folder with a table and a record of several blocks, as W&B has written them."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("WANDB_DATA_DIR", raising=False)  # what a test before this one may have left
        folder = tmp_path_factory.mktemp("there") / "run"
        run = wandb_logger(save_dir=str(folder), project="test", notes="x" * 70_000).experiment
        run.log({"table": wandb.Table(columns=["case"], data=[["liver_0"]])})
        run.finish()
        wandb.teardown()  # the record is whole when its writer has ended
    return folder


@pytest.fixture
def moved(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "here" / "run", symlinks=True)


def record_of(folder: Path) -> Path:
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return path


def test_the_log_is_written_as_wandb_writes_it(recorded: Path) -> None:
    path = record_of(recorded)
    content = path.read_bytes()
    assert len(content) > 2 * (1 << 15)
    assert content[:_START] + _as_log(list(_entries(content, path))) == content


def test_paths_are_those_of_the_copy(recorded: Path, moved: Path, monkeypatch) -> None:
    before = record_of(recorded).read_bytes()
    monkeypatch.chdir(moved.parent)
    assert follow_moved(Path("run")) == len(paths_in(record_of(recorded))) > 0
    assert all(path.is_relative_to(moved) and path.is_file() for path in paths_in(record_of(moved)))
    assert record_of(recorded).read_bytes() == before
    old, new = artifacts(record_of(recorded)), artifacts(record_of(moved))
    for one in (*old, *new):
        for entry in one.manifest.contents:
            entry.local_path = ""
    assert old == new
    assert follow_moved(moved) == 0


def test_what_is_not_there_is_said(moved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no offline record of W&B"):
        follow_moved(tmp_path)
    record, whole = record_of(moved), record_of(moved).read_bytes()
    record.write_bytes(whole[:-9])  # killed while it wrote
    assert follow_moved(moved) > 0
    record.write_bytes(whole[:100] + b"?" + whole[101:])
    with pytest.raises(ValueError, match="is damaged at byte"):
        follow_moved(moved)
    record.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no record of W&B"):
        follow_moved(moved)
    record.write_bytes(whole)
    shutil.rmtree(moved / "wandb" / "artifacts")
    with pytest.raises(FileNotFoundError, match="is missing, which the table of W&B is made of"):
        follow_moved(moved)
