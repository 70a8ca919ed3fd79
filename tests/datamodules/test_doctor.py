"""The doctor: every fault planted into a sound copy is found, named and counted; nothing is found in a sound one."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from umamba.datamodules.doctor import __main__ as cli
from umamba.datamodules.doctor import case as doctor_case
from umamba.datamodules.doctor import examination
from umamba.datamodules.doctor.contact_sheet import choose
from umamba.datamodules.doctor.examination import examine_dataset
from umamba.datamodules.doctor.quick import quick_check
from umamba.datamodules.doctor.report import Report
from umamba.datamodules.prepare import phantom_cells
from umamba.locations import ROOT
from umamba.raw.description import DatasetError

SHAPE = (6, 10, 12)
SPACING = (0.8, 0.9, 2.5)  # x, y, z


def write(path: Path, array: np.ndarray, *, like: sitk.Image | None = None, spacing: tuple = SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    if like is None:
        image.SetSpacing(spacing)
        image.SetOrigin((-10.0, 5.0, 20.0))
    else:
        image.CopyInformation(like)
    sitk.WriteImage(image, path)
    return path


def read(path: Path) -> sitk.Image:
    return sitk.ReadImage(path)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, SHAPE).astype(np.float32)


def label_map() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 2:7, 2:6] = 1
    label[2:5, 3:8, 6:10] = 2
    return label


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four training cases and a test case of one CT channel and two classes; nothing wrong with them."""
    folder = tmp_path / "Dataset099_Sound"
    for number in range(5):
        split = "Tr" if number < 4 else "Ts"
        write(folder / f"images{split}" / f"case_{number}_0000.nii.gz", scan(number))
        write(folder / f"labels{split}" / f"case_{number}.nii.gz", label_map())
    meta = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


def image_of(folder: Path, number: int = 1) -> Path:
    return folder / "imagesTr" / f"case_{number}_0000.nii.gz"


def label_of(folder: Path, number: int = 1) -> Path:
    return folder / "labelsTr" / f"case_{number}.nii.gz"


def examine(folder: Path, **options) -> Report:
    return examine_dataset(folder, folder.parent / "doctor", **options)[0]


def found(report: Report) -> set[tuple[str, str, str]]:
    return {(finding.severity, finding.kind, finding.case) for finding in report.findings}


def test_nothing_is_found_in_a_sound_data_set(dataset: Path) -> None:
    report = examine(dataset)
    assert report.findings == [] and report.num_errors == 0
    facts = report.facts[2]
    assert (facts.case, facts.split, facts.shape, facts.orientation) == ("case_2", "Tr", SHAPE, "LPS")
    assert facts.spacing == pytest.approx(SPACING[::-1])
    values, counts = np.unique(label_map(), return_counts=True)
    assert facts.labels == dict(zip(values.tolist(), counts.tolist(), strict=True))
    expected = scan(2).astype(np.float64)
    assert facts.channels[0]["mean"] == pytest.approx(expected.mean(), rel=1e-5)
    assert facts.channels[0]["std"] == pytest.approx(expected.std(), rel=1e-5)
    assert facts.channels[0]["percentile_99"] == pytest.approx(np.percentile(expected, 99), rel=1e-5)
    assert quick_check(dataset) == []


# ---- one fault each: plant it, and say what must be found and in how severe a form


def truncated_image(folder: Path) -> None:
    path = image_of(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_label(folder: Path) -> None:
    path = label_of(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def hidden_file(folder: Path) -> None:
    (folder / "imagesTr" / "._case_1_0000.nii.gz").write_bytes(b"mac")


def missing_label(folder: Path) -> None:
    label_of(folder).unlink()


def missing_image(folder: Path) -> None:
    image_of(folder).unlink()


def wrong_name(folder: Path) -> None:
    image_of(folder).rename(folder / "imagesTr" / "case_1.nii.gz")


def other_shape(folder: Path) -> None:
    write(label_of(folder), label_map()[:-1])


def other_spacing(folder: Path) -> None:
    write(label_of(folder), label_map(), spacing=(0.8, 0.9, 3.0))


def other_origin(folder: Path) -> None:
    label = read(label_of(folder))
    label.SetOrigin((-10.0, 5.0, 27.5))
    sitk.WriteImage(label, label_of(folder))


def half_a_voxel_off(folder: Path) -> None:
    label = read(label_of(folder))
    label.SetOrigin((-10.4, 5.0, 20.0))
    sitk.WriteImage(label, label_of(folder))


def other_direction(folder: Path) -> None:
    label = read(label_of(folder))
    label.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(label, label_of(folder))


def not_a_number(folder: Path) -> None:
    image = scan(1)
    image[0, 0, 0] = np.nan
    write(image_of(folder), image)


def infinite(folder: Path) -> None:
    image = scan(1)
    image[0, 0, 0] = np.inf
    write(image_of(folder), image)


def unknown_label(folder: Path) -> None:
    write(label_of(folder), label_map() * 3)


def half_label(folder: Path) -> None:
    write(label_of(folder), label_map().astype(np.float32) * 0.5)


def absent_class(folder: Path) -> None:
    for number in range(4):
        write(label_of(folder, number), np.minimum(label_map(), 1))


def extra_channel(folder: Path) -> None:
    write(folder / "imagesTr" / "case_1_0001.nii.gz", scan(11))


def four_dimensions(folder: Path) -> None:
    sitk.WriteImage(sitk.JoinSeries(read(image_of(folder)), read(image_of(folder))), image_of(folder))


def duplicate(folder: Path) -> None:
    write(image_of(folder), scan(3))  # as case_3, in a file of its own


def leakage(folder: Path) -> None:
    write(image_of(folder), scan(4))  # as the test case


def offset_left_in(folder: Path) -> None:
    write(image_of(folder), scan(1) + 5000)


def constant(folder: Path) -> None:
    write(image_of(folder), np.full(SHAPE, -3, np.float32))


def other_scale(folder: Path) -> None:
    write(image_of(folder), scan(1) * 1000)


def turned(folder: Path) -> None:
    for path in (image_of(folder), label_of(folder)):
        volume = read(path)
        volume.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(volume, path)


def odd_spacing(folder: Path) -> None:
    for path in (image_of(folder), label_of(folder)):
        write(path, sitk.GetArrayFromImage(read(path)), spacing=(0.8, 0.9, 10.0))


def absurd_spacing(folder: Path) -> None:
    for path in (image_of(folder), label_of(folder)):
        write(path, sitk.GetArrayFromImage(read(path)), spacing=(9000.0, 9000.0, 9000.0))


def odd_size(folder: Path) -> None:
    write(image_of(folder), np.tile(scan(1), (4, 1, 1)))
    write(label_of(folder), np.tile(label_map(), (4, 1, 1)))


def wrong_count(folder: Path) -> None:
    meta = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**meta, "numTraining": 50}))


FAULTS: dict[Callable[[Path], None], tuple[str, str, str]] = {
    truncated_image: ("error", "unreadable", "case_1"),
    truncated_label: ("error", "unreadable", "case_1"),
    hidden_file: ("warning", "hidden files", ""),
    missing_label: ("error", "files", ""),
    missing_image: ("error", "files", ""),
    wrong_name: ("error", "files", ""),
    other_shape: ("error", "shape", "case_1"),
    other_spacing: ("error", "spacing", "case_1"),
    other_origin: ("error", "origin", "case_1"),
    half_a_voxel_off: ("warning", "origin", "case_1"),
    other_direction: ("error", "direction", "case_1"),
    not_a_number: ("error", "values", "case_1"),
    infinite: ("error", "values", "case_1"),
    unknown_label: ("error", "labels", "case_1"),
    half_label: ("error", "unreadable", "case_1"),
    absent_class: ("warning", "absent class", ""),
    extra_channel: ("error", "files", ""),
    four_dimensions: ("error", "unreadable", "case_1"),
    duplicate: ("warning", "duplicate", "case_1"),
    leakage: ("error", "leakage", "case_1"),
    offset_left_in: ("warning", "intensities", "case_1"),
    constant: ("warning", "intensities", "case_1"),
    other_scale: ("warning", "intensity outlier", "case_1"),
    turned: ("warning", "orientation", "case_1"),
    odd_spacing: ("warning", "spacing outlier", "case_1"),
    absurd_spacing: ("error", "too large", "case_1"),
    odd_size: ("warning", "size outlier", "case_1"),
    wrong_count: ("warning", "dataset.json", ""),
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(dataset: Path, plant: Callable[[Path], None]) -> None:
    plant(dataset)
    report = examine(dataset)
    assert FAULTS[plant] in found(report)
    others = {kind for _, kind, case in found(report) if case not in ("", "case_1")}
    assert not others  # the sound cases stay sound
    assert {case.case for case in report.facts} >= {"case_0", "case_2", "case_3", "case_4"}  # and are all examined


def test_label_pictures_scaled_to_255(tmp_path: Path) -> None:
    folder = phantom_cells.prepare(None, tmp_path / "set", num_training=3, num_test=1)
    assert examine(folder).findings == []
    label = folder / "labelsTr" / "cells_001.png"
    iio.imwrite(label, (iio.imread(label) == 1).astype(np.uint8) * 255)
    report = examine(folder)
    assert found(report) == {("error", "labels", "cells_001")}
    assert "255 suggests a mask that was scaled for viewing" in report.findings[0].message


def test_pictures_are_told_in_pixels(tmp_path: Path) -> None:
    folder = phantom_cells.prepare(None, tmp_path / "set", num_training=3, num_test=1)
    said = io.StringIO()
    examine(folder).print(Console(file=said, width=120))
    assert "median 128 x 128 pixels (y, x)" in said.getvalue() and "mm" not in said.getvalue()


def test_grey_pictures_where_colour_is_declared(tmp_path: Path) -> None:
    folder = phantom_cells.prepare(None, tmp_path / "set", num_training=3, num_test=1)
    image = folder / "imagesTr" / "cells_001_0000.png"
    iio.imwrite(image, iio.imread(image)[..., 0])
    assert found(examine(folder)) == {("error", "channels", "cells_001")}


def test_a_case_that_breaks_a_decoder_does_not_stop_the_others(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor_case.load_and_check

    def fail(case, description):
        if case.identifier == "case_1":
            raise OverflowError("header says 2**63 slices")
        return real(case, description)

    monkeypatch.setattr(doctor_case, "load_and_check", fail)
    report = examine(dataset)
    assert found(report) == {("error", "unreadable", "case_1")}
    assert "OverflowError: header says" in report.findings[0].message
    assert len(report.facts) == 5


def test_a_missing_instance_map(tmp_path: Path) -> None:
    folder = phantom_cells.prepare(None, tmp_path / "set", num_training=3, num_test=1)
    (folder / "instancesTs" / "cells_003.tif").unlink()
    report = examine(folder)
    assert found(report) == {("error", "files", "")}
    assert "cells_003.png has no instance map; expected" in report.findings[0].message


# ---- geometry as a choice


@pytest.mark.parametrize("plant", [other_shape, other_spacing, other_origin, other_direction])
def test_geometry_ignored_is_a_warning(dataset: Path, plant: Callable[[Path], None]) -> None:
    plant(dataset)
    assert examine(dataset).num_errors == 1
    report = examine(dataset, geometry="ignore")
    assert report.num_errors == 0
    assert [finding.case for finding in report.findings] == ["case_1"]


def test_labels_are_resampled_onto_their_images_grid(dataset: Path) -> None:
    # the same anatomy, stored with half the slices and shifted by a row
    label = read(label_of(dataset))
    coarse = sitk.Resample(
        label, (12, 9, 3), sitk.Transform(), sitk.sitkNearestNeighbor, (-10.0, 5.9, 20.0), (0.8, 0.9, 5.0)
    )
    sitk.WriteImage(coarse, label_of(dataset))
    stored = label_of(dataset).read_bytes()
    report = examine(dataset, geometry="resample_label")
    assert found(report) == {("warning", "repaired", "case_1")}
    repaired = read(label_of(dataset))
    assert repaired.GetSize() == label.GetSize() and repaired.GetOrigin() == pytest.approx(label.GetOrigin())
    expected = label_map()
    expected[1::2] = expected[0:-1:2]  # every other slice was lost: its neighbour below (ties go down)
    got = sitk.GetArrayFromImage(repaired)
    assert (got[::2] == label_map()[::2]).all()
    assert set(np.unique(got)) == {0, 1, 2}
    original = dataset / "labelsTr_original" / "case_1.nii.gz"
    assert original.read_bytes() == stored
    assert examine(dataset).findings == []


def test_the_images_header_is_copied(dataset: Path) -> None:
    other_direction(dataset)
    assert found(examine(dataset, geometry="copy_header")) == {("warning", "repaired", "case_1")}
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read(label_of(dataset))), label_map())
    assert read(label_of(dataset)).GetDirection() == read(image_of(dataset)).GetDirection()
    assert examine(dataset).findings == []


def test_a_repair_that_would_lose_the_label_is_refused(dataset: Path) -> None:
    label = read(label_of(dataset))
    label.SetOrigin((500.0, 5.0, 20.0))
    sitk.WriteImage(label, label_of(dataset))
    stored = label_of(dataset).read_bytes()
    report = examine(dataset, geometry="resample_label")
    assert found(report) == {("error", "origin", "case_1"), ("error", "repair", "case_1")}
    other_shape(dataset)
    report = examine(dataset, geometry="copy_header")
    assert ("error", "repair", "case_1") in found(report)
    assert stored and not (dataset / "labelsTr_original").exists()


def test_unknown_geometry_choice(dataset: Path) -> None:
    with pytest.raises(ValueError, match="geometry=guess: expected one of error, ignore, resample_label, copy_header"):
        examine(dataset, geometry="guess")


# ---- resuming


def test_an_examination_goes_on_where_it_stopped(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = examination.examine

    def spy(job, description):
        if job[0].identifier == "case_3" and len(seen) == 3:
            seen.append("killed")
            raise KeyboardInterrupt
        seen.append(job[0].identifier)
        return real(job, description)

    monkeypatch.setattr(examination, "examine", spy)
    with pytest.raises(KeyboardInterrupt):
        examine(dataset)
    kept = dataset.parent / "doctor" / "cases.jsonl"
    assert len(kept.read_text().splitlines()) == 3
    kept.write_text(kept.read_text() + '{"key": "cut o')  # killed while writing
    report = examine(dataset)
    assert seen == ["case_0", "case_1", "case_2", "killed", "case_3", "case_4"]
    assert [case.case for case in report.facts] == [f"case_{number}" for number in range(5)]

    write(image_of(dataset, 2), scan(20))  # changed since
    os.utime(image_of(dataset, 2), ns=(1, 1))
    examine(dataset)
    assert seen[6:] == ["case_2"]

    content, stat = image_of(dataset, 1).read_bytes(), image_of(dataset, 1).stat()
    image_of(dataset, 1).write_bytes(content[::-1][:-1] + content[:1])  # size and time are kept
    os.utime(image_of(dataset, 1), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    examine(dataset)
    assert seen[7:] == ["case_1"]


MEASURE = """
import resource, sys
from umamba.datamodules.doctor.case import examine
from umamba.raw.dataset import RawDataset
raw = RawDataset.open(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert not examine((raw.training_cases[0], "Tr"), raw).findings
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)  # KiB
"""


@pytest.mark.slow
def test_a_worker_needs_little_beyond_the_volume(tmp_path: Path) -> None:
    shape = (500, 512, 512)  # a large CT
    noise = np.random.default_rng(0).normal(0, 100, shape[1:]).astype(np.int16)
    write(tmp_path / "imagesTr" / "case_0000.nii", np.broadcast_to(noise, shape))
    write(tmp_path / "labelsTr" / "case.nii", np.broadcast_to((noise > 0).astype(np.uint8), shape))
    meta = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 1, "file_ending": ".nii"}
    (tmp_path / "dataset.json").write_text(json.dumps(meta))
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    volume = np.prod(shape) * (4 + 2) / 2**20  # MiB: float32 and the label map's int16
    assert int(result.stdout) / 1024 - volume < 300


# ---- the quick part


@pytest.mark.parametrize(
    "plant", [other_shape, other_spacing, other_origin, other_direction, missing_label, missing_image, extra_channel]
)
def test_the_quick_part_stops_a_training(dataset: Path, plant: Callable[[Path], None]) -> None:
    plant(dataset)
    with pytest.raises(DatasetError, match="case_1"):
        quick_check(dataset)


def test_the_quick_part_says_in_one_line_that_labels_lie_up_to_a_voxel_off(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        label = read(label_of(dataset, number))
        label.SetOrigin((-10.0, 5.9, 21.0))
        sitk.WriteImage(label, label_of(dataset, number))
    assert {(finding.severity, finding.kind) for finding in quick_check(dataset)} == {("warning", "origin")}
    (message,) = caplog.messages
    assert message.startswith("4 case(s) have files that lie up to a voxel apart, such as: ")
    assert "case_0.nii.gz lies 1.00 voxels away" in message


def test_the_quick_part_says_that_images_point_along_different_axes(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned(dataset)
    (finding,) = quick_check(dataset)
    assert (finding.severity, finding.kind, finding.case) == ("warning", "orientation", "case_1")
    (message,) = caplog.messages
    assert re.search(r"3 training case\(s\) are stored LPS, 1 [A-Z]{3}: the network sees some turned", message)


def test_what_dataset_json_lists_wrongly_is_the_only_thing_said(dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(content | {"dataset": {"a": {"images": []}}}))
    (finding,) = examine(dataset).findings
    assert finding.severity == "error" and "case 'a' needs images" in finding.message


def test_the_quick_part_sees_empty_files_and_shared_ones(dataset: Path) -> None:
    shutil.copy(dataset / "imagesTs" / "case_4_0000.nii.gz", image_of(dataset))
    with pytest.raises(DatasetError, match=r"case_4_0000.nii.gz is the training image .*case_1_0000.nii.gz"):
        quick_check(dataset)
    image_of(dataset).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"case_1_0000.nii.gz is empty \(0 bytes\)"):
        quick_check(dataset)
    image_of(dataset).write_bytes(b"no image")
    with pytest.raises(DatasetError, match="case_1_0000.nii.gz cannot be read"):
        quick_check(dataset)


# ---- the command


def run(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    monkeypatch.setattr(sys, "argv", ["doctor", "data=custom", "data.num_workers=0", *overrides])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code)


def test_command_exit_codes_report_and_contact_sheet(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    where = (f"data.dataset_dir={dataset}", f"output={tmp_path / 'out'}", f"paths.root={tmp_path}")
    assert run(monkeypatch, *where) == 0
    assert "Nothing wrong was found" in capsys.readouterr().out
    truncated_image(dataset)
    assert run(monkeypatch, *where) == 1
    assert "1 errors, 0 warnings in 5 cases" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["errors"] == 1 and report["unreadable_cases"] == 1
    assert report["findings"][0]["message"].startswith("imagesTr/case_1_0000.nii.gz cannot be read (")
    assert str(tmp_path) not in json.dumps(report)
    assert report["classes"]["liver"]["cases"] == 4
    sheet = iio.imread(tmp_path / "out" / "contact_sheet.png")
    assert sheet.ndim == 3 and sheet[..., :3].std() > 10
    assert run(monkeypatch, f"data.dataset_dir={tmp_path / 'none'}", f"paths.root={tmp_path}") == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none'} does not exist: check data.dataset_dir\n"


def test_contact_sheet_shows_findings_first_and_spreads_the_rest() -> None:
    severities = [set() for _ in range(100)]
    severities[70], severities[20] = {"error"}, {"warning"}
    chosen = choose(severities)
    assert chosen[:2] == [70, 20] and len(set(chosen)) == 24
    assert chosen[2] == 0 and chosen[-1] == 99
    assert len([i for i in choose([{"error"}] * 100) if i < 16]) >= 16
    assert choose([]) == []


@pytest.mark.data
def test_real_hippocampus_is_sound(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "Dataset004_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    report, cases = examine_dataset(folder, tmp_path, workers=1)
    assert len(cases) == 200 and report.num_errors == 0
    assert {kind for _, kind, _ in found(report)} == {"intensity outlier"}  # 0-255 up to 0-1.7e6
