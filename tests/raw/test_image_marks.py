"""An image is known again however its file was written, and old marks by the bytes of their files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.raw.file_identity import fingerprint
from umamba.raw.image_marks import KnownImages, are_alike, joined, of_files, samples_of, voxel_marks
from umamba.raw.readers import read_images

SPACING = (0.7, 0.7, 3.0)


def write(path: Path, values: np.ndarray, spacing: tuple[float, ...] = SPACING) -> Path:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, path)
    return path


def mark(path: Path) -> str:
    image, geometry = read_images([path])
    return joined(fingerprint(path), voxel_marks(image, 1, geometry.spacing)[0])


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (4, 6, 8)).astype(np.int16)


@pytest.mark.parametrize("how", ["gzip", "int32", "float32", "header", "nrrd", "negative zero"])
def test_the_same_voxels_are_the_same_image(tmp_path: Path, scan: np.ndarray, how: str) -> None:
    scan[0, 0, 0] = 0
    first, other = write(tmp_path / "a.nii.gz", scan), tmp_path / "b.nii.gz"
    if how == "gzip":
        other.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 1))
    elif how == "nrrd":
        other = write(tmp_path / "b.nrrd", scan)
    elif how == "negative zero":
        write(other, np.where(scan == 0, np.float32(-0.0), scan.astype(np.float32)))
    else:
        write(other, scan.astype(how) if how != "header" else scan, (1.0,) * 3 if how == "header" else SPACING)
    assert fingerprint(first) != fingerprint(other)
    known = KnownImages({"case_1": mark(first)})
    for given in (None, mark(other), samples_of(mark(other))):
        assert known.name_of([other], given) == "case_1"
    assert known.name_of([other], array=read_images([other])[0]) == "case_1"
    assert are_alike(mark(first), mark(other)) == (how != "header")  # of another spacing another store is made


def test_other_images_are_told_apart(tmp_path: Path, scan: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownImages({"case_1": mark(write(tmp_path / "a.nii.gz", scan))})
    changed = write(tmp_path / "changed.nii.gz", np.where(scan == scan.max(), 0, scan))
    assert known.name_of([changed]) is None and known.name_of([changed], mark(changed)) is None
    monkeypatch.setattr("umamba.raw.image_marks.read_images", lambda paths: pytest.fail("was read"))
    turned = write(tmp_path / "turned.nii.gz", scan.transpose(2, 1, 0).copy())
    assert known.name_of([turned]) is None  # told by its shape


def test_marks_of_earlier_versions_know_files_by_their_bytes(tmp_path: Path, scan: np.ndarray) -> None:
    first = write(tmp_path / "a.nii.gz", scan)
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(first.read_bytes())
    again = tmp_path / "again.nii.gz"
    again.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 1))
    old = KnownImages({"case_1": fingerprint(first)})
    assert old.name_of([copy]) == old.name_of([copy], mark(copy)) == "case_1" and old.name_of([again]) is None
    assert are_alike(fingerprint(first), mark(copy)) and not are_alike(fingerprint(first), mark(again))
    assert of_files({"a": mark(first), "b": {"label": mark(first)}, "c": 1}) == {
        "a": fingerprint(first), "b": {"label": fingerprint(first)}, "c": 1,
    }  # fmt: skip


def test_one_channel_of_several_tells_a_case(tmp_path: Path, scan: np.ndarray) -> None:
    paths = [write(tmp_path / f"a_{index}.nii.gz", scan + index) for index in range(3)]
    image, geometry = read_images(paths)
    marks = voxel_marks(image, 3, geometry.spacing, scan)
    assert len(marks) == 4 and marks[3].split("/")[1] == marks[0].split("/")[1] and marks[0] != marks[1]
    known = KnownImages({"a": joined("other bytes", marks[0])})
    assert known.name_of(paths) == known.name_of(paths, array=image) == "a"
    assert known.name_of(paths[1:]) is None


def test_a_channel_of_one_value_tells_no_case(tmp_path: Path, scan: np.ndarray) -> None:
    blank = write(tmp_path / "blank.nii.gz", np.zeros_like(scan))
    copy = write(tmp_path / "copy.nii.gz", np.zeros_like(scan))
    known = KnownImages({"case_1": mark(blank)})
    for given in (None, mark(copy)):
        assert known.name_of([copy], given) is None
    assert known.name_of([copy], array=read_images([copy])[0]) is None
    assert are_alike(mark(blank), mark(copy))  # a run goes on with it all the same
    assert not are_alike(mark(blank), mark(write(tmp_path / "other.nii.gz", np.ones_like(scan))))
