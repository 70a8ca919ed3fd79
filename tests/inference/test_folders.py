"""Which files of a plain folder are one case."""

import os
import re
from pathlib import Path

import pytest

from umamba.inference.folders import cases_in_folder, check_apart, check_not_an_input
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetError


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


def test_four_digits_are_a_channel_only_beside_the_first_channel(tmp_path: Path) -> None:
    touch(tmp_path, "amos_0507.nii.gz", "amos_0508.nii.gz", "patient_2023.nii.gz", "x_0000.nii.gz", "1234.nii.gz")
    names = [case.identifier for case in cases_in_folder(tmp_path, ".nii.gz", 1)]
    assert names == ["1234", "amos_0507", "amos_0508", "patient_2023", "x"]


def test_numbered_pictures_are_names(tmp_path: Path) -> None:
    touch(tmp_path, "frame_0507.png", "frame_0508.png")
    assert [case.identifier for case in cases_in_folder(tmp_path, ".png", 3)] == ["frame_0507", "frame_0508"]


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (("a_0000", "a"), 1, "a.nii.gz and a_0000.nii.gz would both be case a"),
        (("a_0000", "a"), 2, "a.nii.gz and a_0000.nii.gz would both be case a"),
        (("amos_0000", "amos_0507"), 1, r"case amos has 2 file\(s\).*found amos_0000, amos_0507"),
        (("a_0000", "a_0002"), 2, r"case a .*needs 2 channels.*found a_0000, a_0002"),
        (("a_0000", "a_0001", "a_0002"), 2, r"case a has 3 file\(s\), the network needs 2"),
        (("a_0001",), 1, None),
        (("a_0001",), 2, r"case a_0001 has 1 file\(s\), the network needs 2"),
        (("a", "b_0000", "b_0001"), 2, r"case a has 1 file\(s\), the network needs 2"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, names: tuple, channels: int, message: str | None) -> None:
    touch(tmp_path, *(f"{name}.nii.gz" for name in names))
    if message is None:
        assert [case.identifier for case in cases_in_folder(tmp_path, ".nii.gz", channels)] == list(names)
        return
    with pytest.raises(DatasetError, match=message):
        cases_in_folder(tmp_path, ".nii.gz", channels)
    sound = [f"sound_{channel:04d}.nii.gz" for channel in range(channels)]
    faults: dict[str, str] = {}
    assert len(cases_in_folder(touch(tmp_path, *sound), ".nii.gz", channels, faults)) in (1, 2)  # (b beside a)
    assert len(faults) == 1 and re.search(message, *faults.values())


def test_images_of_another_ending_are_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a_0000.nii.gz", "UP_0000.NII.GZ", "c.nii", "notes.TXT", ".b.NII.GZ")
    assert [case.identifier for case in cases_in_folder(tmp_path, ".nii.gz", 1)] == ["a"]
    (said,) = caplog.messages
    assert "2 file(s) in" in said and said.endswith("if they are cases: UP_0000.NII.GZ, c.nii.")


@pytest.mark.skipif(os.name == "nt", reason="there are no such names")
def test_a_name_that_no_label_map_may_have_leaves_the_others(tmp_path: Path) -> None:
    faults: dict[str, str] = {}
    touch(tmp_path, "a\nb.nii.gz")
    with pytest.raises(DatasetError, match="control character"):  # nothing else is there
        cases_in_folder(tmp_path, ".nii.gz", 1, faults)
    touch(tmp_path, "c.nii.gz")
    assert [case.identifier for case in cases_in_folder(tmp_path, ".nii.gz", 1, faults)] == ["c"]
    assert list(faults) == ["a\nb"]


def test_images_and_label_maps_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    images = tmp_path / "images [1] ä"
    (images / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(images)
    check_apart(images, tmp_path / "predictions")
    check_apart(images, tmp_path / "images [1] ä 2")
    for output, relation in [
        (images, "is"), (tmp_path / "link", "is"), (images / ".." / images.name, "is"),
        (images / "below", "lies in"), (tmp_path / "link" / "new", "lies in"), (tmp_path, "holds"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"{relation} the folder of the images"):
            check_apart(images, output)


@pytest.mark.parametrize("name", ["labelsTs", "labelsTr", "imagesTs", "labelsVal-instance-mask", "instancesTs"])
def test_label_maps_do_not_go_into_a_data_set(tmp_path: Path, name: str) -> None:
    images, output = tmp_path / "imagesTs", tmp_path / name
    check_apart(images, tmp_path / "labels" if name != "imagesTs" else tmp_path / "predictions")
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "link").symlink_to(output)
    for path in (output, tmp_path / "link"):
        with pytest.raises(ValueError, match=f"a folder of the data set {tmp_path}: .* would replace"):
            check_apart(tmp_path / "imagesTr", path)
    check_apart(images, tmp_path / "predictions")


def test_a_label_map_does_not_replace_that_of_its_case(tmp_path: Path) -> None:
    label = tmp_path / "references" / "a.nii.gz"
    case = RawCase(identifier="a", images=(tmp_path / "a_0000.nii.gz",), label=label)
    check_not_an_input([case], {"a": tmp_path / "predictions" / "a.nii.gz"})
    with pytest.raises(ValueError, match="label map of case a would replace the image or label .*references/a"):
        check_not_an_input([case], {"a": label})
    (tmp_path / "predictions").mkdir(exist_ok=True)
    (tmp_path / "predictions" / "a.nii").touch()
    with pytest.raises(ValueError, match=r"a\.nii lies where a\.nii\.gz is to be written"):
        check_not_an_input([case], {"a": tmp_path / "predictions" / "a.nii.gz"})


def test_a_picture_holds_all_its_channels(tmp_path: Path) -> None:
    assert len(cases_in_folder(touch(tmp_path, "cell.png"), ".png", 3)) == 1


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    with pytest.raises(
        DatasetError, match="case b has 1 file.*needs 2 channels: b_0000.nii.gz to b_0001.nii.gz; found b_0000"
    ):
        cases_in_folder(tmp_path, ".nii.gz", 2)


def test_an_empty_folder_says_what_it_holds_instead(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*.nii.gz file; it holds: .png"):
        cases_in_folder(touch(tmp_path, "a.png"), ".nii.gz", 1)
    (tmp_path / "imagesTs").mkdir()
    touch(tmp_path / "imagesTs", "a.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"it holds: .png, the folder\(s\) imagesTs with such files\. Give the"):
        cases_in_folder(tmp_path, ".nii.gz", 1)
    with pytest.raises(FileNotFoundError, match="does not exist; expected a folder with the images"):
        cases_in_folder(tmp_path / "none", ".nii.gz", 1)
