"""A store is of the content of its raw files, whose sizes and times can be kept when files are exchanged."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from preparation import run
from raw_data import make_dataset

from umamba.planning import raw_files
from umamba.planning.raw_files import RawFiles
from umamba.raw.dataset import RawDataset
from umamba.raw.file_identity import file_content

ONE, OTHER = "labelsTr/case_0.nii", "labelsTr/case_1.nii"


def uncompressed(folder: Path) -> Path:
    """A data set whose files of a kind all have one size and one time."""
    raw = make_dataset(folder, file_ending=".nii")
    for packed in list(raw.glob("*Tr/*.nii.gz")):
        path = packed.with_suffix("")
        path.write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
        os.utime(path, ns=(1_700_000_000_000_000_000,) * 2)
    return raw


def exchange(raw: Path, how: str) -> None:
    """Exchange two files; each name keeps its size and time."""
    one, other, beside = raw / ONE, raw / OTHER, raw / "beside"
    before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (one, other)]
    move = os.replace if how == "rename" else shutil.copy2
    for source, target in ((one, beside), (other, one), (beside, other)):
        move(source, target)
    assert [(path.stat().st_size, path.stat().st_mtime_ns) for path in (one, other)] == before


def label_of(store, name: str) -> np.ndarray:
    return store.case(name).label[:]


@pytest.mark.parametrize("how", ["copy", "rename"])
def test_exchanged_files_of_one_size_and_time_are_prepared_again(tmp_path, written, how):
    raw, out = uncompressed(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    labels = label_of(first, "case_0"), label_of(first, "case_1")
    assert (labels[0] != labels[1]).any()
    written.clear()
    exchange(raw, how)
    _, second = run(raw, out)
    assert sorted(written) == ["case_0", "case_1"] and second.folder != first.folder
    np.testing.assert_array_equal(label_of(second, "case_0"), labels[1])
    np.testing.assert_array_equal(label_of(first, "case_0"), labels[0])  # who reads the first store goes on with it
    written.clear()
    assert run(raw, out)[1].folder == second.folder and written == []
    exchange(raw, how)
    assert run(raw, out)[1].folder == first.folder and written == []


def test_a_copied_data_set_is_hashed_once_and_not_prepared_again(tmp_path, written, caplog):
    raw, out = uncompressed(tmp_path / "raw"), tmp_path / "out"
    run(raw, out)
    shutil.copytree(raw, tmp_path / "copy")
    shutil.rmtree(raw)
    written.clear()
    caplog.clear()  # the first preparation is in it where another test has set the level
    with caplog.at_level(logging.INFO):
        run(tmp_path / "copy", out)
        assert written == [] and caplog.text.count("Hashing 6 raw files") == 1
        run(tmp_path / "copy", out)
        assert written == [] and caplog.text.count("Hashing") == 1


def test_a_preparation_without_hashes_is_used_and_guarded_from_then_on(tmp_path, written):
    raw, out = uncompressed(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    (out / "raw_files.json").unlink()  # as of before there were any
    written.clear()
    assert run(raw, out)[1].folder == first.folder and written == []
    exchange(raw, "copy")
    run(raw, out)
    assert sorted(written) == ["case_0", "case_1"]


def test_what_a_preparation_knows_is_not_hashed_again(tmp_path, monkeypatch):
    raw, out = uncompressed(tmp_path / "raw"), tmp_path / "out"
    run(raw, out)
    files = sorted(raw.glob("labelsTr/*"))
    expected = {path: file_content(path) for path in files}
    hashed = []
    monkeypatch.setattr(raw_files, "file_content", lambda path: hashed.append(path) or file_content(path))
    assert raw_files.contents(files, raw, out) == expected and hashed == []
    exchange(raw, "copy")
    assert raw_files.contents(files, raw, out) != expected and hashed == files[:2]
    assert raw_files.contents(files, raw, tmp_path / "absent") and hashed == [*files[:2], *files]


def test_voxels_beside_their_header_are_prepared_again_when_they_change(tmp_path, written):
    """With the header's size and time as they were."""
    raw, out = make_dataset(tmp_path / "raw", file_ending=".mhd"), tmp_path / "out"
    for path in raw.glob("*Tr/*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(path), str(path).replace(".nii.gz", ".mhd"), useCompression=False)
        path.unlink()
    assert len(list(raw.glob("labelsTr/*.raw"))) == len(list(raw.glob("labelsTr/*.mhd")))
    _, first = run(raw, out)
    labels = label_of(first, "case_0")
    written.clear()
    voxels = raw / "labelsTr" / "case_0.raw"
    content = np.fromfile(voxels, np.uint8)
    content[content.nonzero()[0][:200]] = 0
    content.tofile(voxels)
    _, second = run(raw, out)
    assert written == ["case_0"] and second.folder != first.folder
    assert (label_of(second, "case_0") != labels).any()


@pytest.mark.parametrize("reason", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_takes_no_hashes_serves_what_is_finished(tmp_path, monkeypatch, reason):
    raw, out = uncompressed(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    (out / "raw_files.json").unlink()

    def refusing(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(raw_files, "write_json", refusing)
    monkeypatch.setattr(raw_files, "file_content", lambda path: pytest.fail(f"{path} was read"))
    assert run(raw, out)[1].folder == first.folder


def test_a_read_only_preparation_with_hashes_still_sees_an_exchange(tmp_path, monkeypatch):
    raw, out = uncompressed(tmp_path / "raw"), tmp_path / "out"
    run(raw, out)
    opened = RawDataset.open(raw)
    before = RawFiles.read(opened, out, 2).keys

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(raw_files, "write_json", read_only)
    exchange(raw, "copy")
    files = RawFiles.read(opened, out, 2)
    files.save()
    assert [name for name, key in files.keys.items() if key != before[name]] == ["case_0", "case_1"]
