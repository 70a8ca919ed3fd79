"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from umamba.files import (
    UNFINISHED,
    amount,
    atomic_file,
    check_takes_files,
    content_hash,
    remove_unfinished,
    write_json,
    write_text,
    writing_into,
)


def test_the_old_file_stays_when_writing_fails(tmp_path):
    path = tmp_path / "a" / "table.csv"
    write_text("old", path)
    with pytest.raises(ValueError, match="midway"), atomic_file(path) as beside:
        beside.write_text("half")
        raise ValueError("midway")
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_the_name_beside_keeps_the_ending(tmp_path):
    with atomic_file(tmp_path / "map.nii.gz") as beside:
        beside.write_bytes(b"x")
        assert beside.name.endswith(".nii.gz") and beside.parent == tmp_path


def test_a_full_disk_names_the_file_the_user_knows(tmp_path):
    with pytest.raises(OSError, match="last.ckpt") as caught, atomic_file(tmp_path / "last.ckpt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC and UNFINISHED not in str(caught.value)
    assert re.search(r"room for \d[\d.]* [kMGT]?B, the file needs more", str(caught.value))


def test_only_a_full_disk_is_said_to_lack_room(tmp_path):
    with pytest.raises(PermissionError, match="last.ckpt") as caught, atomic_file(tmp_path / "last.ckpt"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert "room" not in str(caught.value)


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="map.nii"), atomic_file(tmp_path / "map.nii"):
        pass
    assert not list(tmp_path.iterdir())


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "plan.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_json({"n": [i] * 1000}, path), range(40)))
    assert len(set(json.loads(path.read_text())["n"])) == 1 and len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    (tmp_path / f"{UNFINISHED}99-ab-last.ckpt").write_bytes(b"half")
    (tmp_path / "last.ckpt").write_bytes(b"whole")
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_hash_ignores_the_order_of_keys():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) != content_hash({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (65_536, "65.5 kB"), (999_960, "1.0 MB"), (8.4e6, "8.4 MB"),
     (1.5e9, "1.5 GB"), (2.25e13, "22.5 TB")],
)  # fmt: skip
def test_an_amount_is_said_in_the_unit_that_fits(size: float, words: str) -> None:
    assert amount(size) == words


def hold(folder: Path) -> subprocess.Popen:
    """A process that writes into a folder until it is killed."""
    code = (
        "import pathlib, sys, time; from umamba.files import atomic_file, writing_into\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with writing_into(folder), atomic_file(folder / 'tables' / 'scores.csv') as beside:\n"
        "    beside.write_text('half'); print('writing', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def left_in(folder: Path) -> int:
    return len(list(folder.rglob(f"{UNFINISHED}*")))


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_what_a_killed_writer_left_is_cleared_by_the_next_alone(tmp_path: Path) -> None:
    killed = hold(tmp_path)
    killed.kill()
    killed.wait()
    assert left_in(tmp_path) == 1
    living = hold(tmp_path)
    try:
        assert left_in(tmp_path) == 1  # that of the living one
        with writing_into(tmp_path):
            assert left_in(tmp_path) == 1
    finally:
        living.kill()
        living.wait()
    with writing_into(tmp_path), writing_into(tmp_path / "." / ""):
        assert left_in(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_who_writes_several_files_waits_for_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two evaluations the tables would be of both: some of the one, some of the other."""
    caplog.set_level("INFO")
    living = hold(tmp_path)
    end = threading.Timer(3, living.kill)
    end.start()
    try:
        with writing_into(tmp_path, alone=True):
            assert living.wait(10) and left_in(tmp_path) <= 1
            assert "Another process writes into" in caplog.text
    finally:
        living.kill()
        end.join()
    assert not (tmp_path / ".writers").exists()


def test_folders_that_cannot_be_written_to_are_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for place in ("folder", "link", "new", "link/a/b"):
        check_takes_files(tmp_path / place, "output")
    for place, reason in [
        ("file", "file is no folder"), ("file/a/b", "file is no folder"), ("nowhere", "nowhere is a link to nothing"),
        ("nowhere/a", "nowhere is a link to nothing"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=rf"output=.*{place} cannot be written to: .*{reason}"):
            check_takes_files(tmp_path / place, "output")
    if Path("/proc").is_dir():
        with pytest.raises(ValueError, match="nothing can be made in /proc"):
            check_takes_files("/proc/no/such", "output")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "nowhere"]
    assert not any((tmp_path / "folder").iterdir())


def test_a_full_disk_is_for_whoever_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    check_takes_files(tmp_path / "new", "output")
