"""An image is known again however its file was written, and old marks by the bytes of their files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.raw.file_identity import fingerprint
from umamba.raw.image_marks import are_alike, joined, known_by, of_cases, of_files, samples_of, voxel_marks
from umamba.raw.known_images import KnownImages, Match
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
        assert known.find([other], marks_of(given)).name == "case_1"
    assert known.find([other], array=read_images([other])[0]).name == "case_1"
    assert are_alike(mark(first), mark(other)) == (how != "header")  # of another spacing another store is made


def test_other_images_are_told_apart(tmp_path: Path, scan: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownImages({"case_1": mark(write(tmp_path / "a.nii.gz", scan))})
    changed = write(tmp_path / "changed.nii.gz", np.where(scan == scan.max(), 0, scan))
    assert known.find([changed]) == known.find([changed], [mark(changed)]) == Match(None)
    monkeypatch.setattr("umamba.raw.known_images.read_images", lambda paths: pytest.fail("was read"))
    turned = write(tmp_path / "turned.nii.gz", scan.transpose(2, 1, 0).copy())
    assert known.find([turned]) == Match(None)  # told by its shape


def test_marks_of_earlier_versions_know_files_by_their_bytes(tmp_path: Path, scan: np.ndarray) -> None:
    first = write(tmp_path / "a.nii.gz", scan)
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(first.read_bytes())
    again = tmp_path / "again.nii.gz"
    again.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 1))
    old = KnownImages({"case_1": fingerprint(first)})
    assert old.find([copy]) == old.find([copy], [mark(copy)]) == Match("case_1")
    assert old.find([again]) == old.find([again], array=read_images([again])[0]) == Match(None, copy=True)
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
    assert known.find(paths) == known.find(paths, array=image) == Match("a")
    assert known.find(paths[1:]) == Match(None)


def test_an_image_of_one_value_leaves_open_what_case_it_is(tmp_path: Path, scan: np.ndarray) -> None:
    blank = write(tmp_path / "blank.nii.gz", np.zeros_like(scan))
    copy = write(tmp_path / "copy.nii.gz", np.zeros_like(scan))
    known = KnownImages({"case_1": mark(blank)})
    for given in (None, mark(copy)):
        assert known.find([copy], marks_of(given)) == Match(None, doubt=True)
    assert known.find([copy], array=read_images([copy])[0]) == Match(None, doubt=True)
    assert are_alike(mark(blank), mark(copy))  # a run goes on with it all the same
    ones = write(tmp_path / "other.nii.gz", np.ones_like(scan))
    assert not are_alike(mark(blank), mark(ones)) and known.find([ones]) == Match(None)


def test_a_case_is_known_by_its_first_channel_that_holds_more_than_one_value(tmp_path: Path, scan: np.ndarray) -> None:
    def case(name: str, *channels: np.ndarray) -> list[Path]:
        return [write(tmp_path / f"{name}_{number}.nii.gz", values) for number, values in enumerate(channels)]

    none = np.zeros_like(scan)
    seen, other = case("seen", none, scan, none), case("other", none, scan + 1, none)
    empty, full = case("empty", none, none, none), case("full", none, none + 1, none)
    for paths, known, found in [
        (seen, [seen], Match("0")), (other, [seen], Match(None)), (empty, [seen], Match(None)),
        (empty, [empty], Match(None, doubt=True)), (seen, [empty], Match(None)), (full, [empty], Match(None)),
        (seen, [empty, seen], Match("1")),
    ]:  # fmt: skip
        images = KnownImages({str(index): known_by([mark(path) for path in one]) for index, one in enumerate(known)})
        array = np.concatenate([read_images([path])[0] for path in paths])
        assert found == images.find(paths) == images.find(paths, array=array)
        assert found == images.find(paths, [mark(path) for path in paths])
        assert found == images.find(paths, [fingerprint(path) for path in paths])


def test_an_empty_first_channel_tells_nothing_to_marks_of_earlier_versions(tmp_path: Path, scan: np.ndarray) -> None:
    paths = [write(tmp_path / f"{number}.nii.gz", scan * number) for number in range(2)]
    image, marks = np.concatenate([read_images([path])[0] for path in paths]), [mark(path) for path in paths]
    old, both = {"a": fingerprint(paths[0])}, {"b": marks[1]}
    for known, found in (([old], Match(None, doubt=True)), ([old, both], Match("b"))):
        images = KnownImages(*known)
        assert found == images.find(paths) == images.find(paths, marks) == images.find(paths, array=image)
        assert found == images.find(paths, [*map(fingerprint, paths)])
    assert KnownImages(old).find(paths[1:]) == Match(None, copy=True)


def test_what_checkpoints_keep_of_the_other_channels_tells_their_cases(tmp_path: Path, scan: np.ndarray) -> None:
    paths = [write(tmp_path / f"{index}.nii.gz", scan * index) for index in range(2)]
    first, second = map(mark, paths)
    kept = {"a": {"label": second, "channel_1": second}, "b": {"label": second}}
    assert of_cases({"a": first, "b": second, "init_from/c": first}, kept) == {
        "a": second, "b": second, "init_from/c": first.rpartition("/")[0],
    }  # fmt: skip
    for older in (None, {}, {"a": 1}, []):
        known = KnownImages(of_cases({"a": first}, older))
        assert known.find(paths) == Match(None, doubt=True)  # what its second channel holds is unknown


def marks_of(given: str | None) -> list[str]:
    return [] if given is None else [given]
