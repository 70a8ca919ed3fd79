"""Which files of a plain folder are one case."""

from pathlib import Path

import pytest

from src.inference.predictor import cases_in_folder
from src.planning.raw import DatasetError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_numbered_channels_are_one_case(tmp_path: Path) -> None:
    touch(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "._a_0000.nii.gz", "notes.txt")
    cases = cases_in_folder(tmp_path, ".nii.gz", 2)
    assert [case.identifier for case in cases] == ["a", "b"]
    assert [path.name for path in cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_single_channel_files_may_have_any_name(tmp_path: Path) -> None:
    touch(tmp_path, "scan.nii.gz", "2024_03.nii.gz", "x_0000.nii.gz")
    assert [case.identifier for case in cases_in_folder(tmp_path, ".nii.gz", 1)] == ["2024_03", "scan", "x"]


def test_a_picture_holds_all_its_channels(tmp_path: Path) -> None:
    assert len(cases_in_folder(touch(tmp_path, "cell.png"), ".png", 3)) == 1


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    with pytest.raises(DatasetError, match="case b has 1 file.*needs 2 channels: b_0000.nii.gz to b_0001.nii.gz"):
        cases_in_folder(tmp_path, ".nii.gz", 2)


def test_an_empty_folder_says_what_it_holds_instead(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*.nii.gz file; it holds: .png"):
        cases_in_folder(touch(tmp_path, "a.png"), ".nii.gz", 1)
    with pytest.raises(FileNotFoundError, match="No folder"):
        cases_in_folder(tmp_path / "none", ".nii.gz", 1)
