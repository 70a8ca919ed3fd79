"""Raw data sets: what is read, what is refused, and what the message says."""

from __future__ import annotations

import gzip
import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from skimage import io as skio

from tests.planning.raw_data import blobs, make_dataset, make_pictures, write_description, write_volume
from umamba.raw.checks import check_case, raise_errors
from umamba.raw.dataset import RawCase, RawDataset
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.nifti import count_nonfinite
from umamba.raw.readers import read_geometry, read_images, read_label, write_label

DESCRIPTION = DatasetDescription(
    name="Toy",
    channel_names=("MR",),
    labels={"background": 0, "liver": 1, "spleen": 2},
    file_ending=".nii.gz",
    num_training=1,
)


def errors_of(case: RawCase, description: DatasetDescription = DESCRIPTION) -> str:
    return "\n".join(f.message for f in check_case(case, description) if f.severity == "error")


@pytest.fixture
def case(tmp_path) -> RawCase:
    image, label = blobs((10, 12, 14), seed=0)
    write_volume(tmp_path / "a_0000.nii.gz", image, (2.0, 1.0, 1.5))
    write_volume(tmp_path / "a.nii.gz", label, (2.0, 1.0, 1.5))
    return RawCase(identifier="a", images=(tmp_path / "a_0000.nii.gz",), label=tmp_path / "a.nii.gz")


def test_open_pairs_files_by_name(tmp_path):
    raw = make_dataset(tmp_path, cases=2, channels=("T1", "T2"))
    write_volume(tmp_path / "imagesTs" / "test_0000.nii.gz", np.zeros((4, 4, 4), np.float32))
    write_volume(tmp_path / "imagesTs" / "test_0001.nii.gz", np.zeros((4, 4, 4), np.float32))
    opened = RawDataset.open(raw)
    assert [c.identifier for c in opened.training_cases] == ["case_0", "case_1"]
    assert [p.name for p in opened.training_cases[0].images] == ["case_0_0000.nii.gz", "case_0_0001.nii.gz"]
    assert opened.test_cases[0].label is None
    assert opened.labels == {"background": 0, "liver": 1, "spleen": 2}


def test_cases_listed_in_dataset_json(tmp_path):
    raw = make_dataset(tmp_path, cases=2)
    content = json.loads((raw / "dataset.json").read_text())
    content["dataset"] = {"x": {"images": ["imagesTr/case_1_0000.nii.gz"], "label": "labelsTr/case_1.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps(content | {"numTraining": 1}))
    opened = RawDataset.open(raw)
    assert [c.identifier for c in opened.training_cases] == ["x"]
    (raw / "labelsTr" / "case_1.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"(?s)lists files that do not exist.*case_1\.nii\.gz"):
        RawDataset.open(raw)


def test_hidden_files_are_skipped_with_one_warning(tmp_path, caplog):
    raw = make_dataset(tmp_path, cases=2)
    for name in ("._case_0_0000.nii.gz", "._case_1_0000.nii.gz", ".DS_Store"):
        (raw / "imagesTr" / name).write_bytes(b"junk")
    assert len(RawDataset.open(raw).training_cases) == 2
    assert caplog.text.count("Skipped") == 1 and "Skipped 2 hidden files" in caplog.text


def test_images_of_another_ending_are_said_in_one_line(tmp_path, caplog):
    raw = make_dataset(tmp_path, cases=2)
    for name in ("UP_0000.NII.GZ", "Up_0000.nii", "notes.TXT", "._x.NII.GZ"):
        (raw / "imagesTr" / name).write_bytes(b"")
    (raw / "imagesTr" / "folder.NII.GZ").mkdir()
    assert len(RawDataset.open(raw).training_cases) == 2
    (said,) = caplog.messages
    assert said.startswith(f"2 file(s) in {raw / 'imagesTr'} do not end in .nii.gz and are left out")
    assert said.endswith(": UP_0000.NII.GZ, Up_0000.nii.")


def test_wrong_num_training_is_said(tmp_path, caplog):
    make_dataset(tmp_path, cases=3, numTraining=2)
    with caplog.at_level(logging.WARNING):
        RawDataset.open(tmp_path)
    assert "declares numTraining 2, but 3 training cases were found" in caplog.text


def test_a_data_set_without_a_name_is_called_like_its_folder_wherever_its_description_lies(tmp_path):
    (tmp_path / "described").mkdir()
    (tmp_path / "Dataset001_Mine").mkdir()
    write_description(tmp_path, 1)
    content = json.loads((tmp_path / "dataset.json").read_text())
    del content["name"]
    (tmp_path / "described" / "dataset.json").write_text(json.dumps(content))
    path = tmp_path / "Dataset001_Mine" / "dataset.json"
    path.symlink_to(tmp_path / "described" / "dataset.json")
    assert DatasetDescription.read(path).name == "Dataset001_Mine"


def test_missing_folder_and_description(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist. Check data.dataset_dir"):
        RawDataset.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="dataset.json does not exist. A raw data set needs"):
        RawDataset.open(tmp_path)


def test_empty_folder(tmp_path):
    write_description(tmp_path, 0)
    with pytest.raises(
        DatasetError, match="has no training case: expected images named NAME_0000.nii.gz in .*imagesTr"
    ):
        RawDataset.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels must be an object such as"),
        ({"labels": {"0": "background", "1": "liver"}}, "must map to a whole number.*older form, keyed by number"),
        ({"labels": {"liver": 1}}, 'labels must contain "background": 0'),
        ({"labels": {"background": 0, "liver": 2}}, r"consecutive from 0, they are \[0, 2\]"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "two labels share one value"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "the ignore label must be the highest value"),
        ({"labels": {"background": 0, "a": 1, "Ignore": 2}}, "label 'Ignore' would be a class to be learned"),
        ({"overwrite_image_reader_writer": "NibabelIOWithReorient"}, "turns images before they are used is not built"),
        ({"labels": {"background": 0, "a": 1.5}}, "label 'a' must map to a whole number, it maps to 1.5"),
        ({"channel_names": {"1": "MR"}}, "channel_names must be keyed"),
        ({"channel_names": ["MR"]}, "channel_names must be an object"),
        ({"file_ending": ".dcm"}, r"file_ending '\.dcm' is not supported. Use one of \.nii\.gz"),
        ({"file_ending": ".jpg"}, r"\.tiff\. Convert JPEG pictures to \.png, and never store labels as JPEG"),
        ({"numTraining": "many"}, "numTraining must be a whole number"),
    ],
)
def test_malformed_descriptions_are_refused(tmp_path, change, message):
    make_dataset(tmp_path, cases=1, **change)
    with pytest.raises(DatasetError, match=f"dataset.json.*{message}"):
        RawDataset.open(tmp_path)


@pytest.mark.parametrize("reader", [None, "None", "SimpleITKIO", "NibabelIO"])
def test_readers_that_leave_images_as_they_lie_are_taken(tmp_path, reader):
    make_dataset(tmp_path, cases=1, overwrite_image_reader_writer=reader)
    assert len(RawDataset.open(tmp_path).training_cases) == 1


def test_an_older_description_is_told_how_to_be_converted(tmp_path):
    older = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver"}, "training": []}
    (tmp_path / "dataset.json").write_text(json.dumps(older))
    with pytest.raises(DatasetError, match=r"lacks file_ending.* Decathlon or of nnU-Net v1, .*umamba prepare"):
        RawDataset.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[]", "must hold a JSON object"), ("{}", "lacks channel_names, labels, file_ending")],
)
def test_broken_json_is_refused(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=f"dataset.json {message}"):
        RawDataset.open(tmp_path)


def test_every_unpaired_file_is_listed(tmp_path):
    raw = make_dataset(tmp_path, cases=4, channels=("T1", "T2"))
    (raw / "labelsTr" / "case_0.nii.gz").unlink()
    for channel in ("0000", "0001"):
        (raw / "imagesTr" / f"case_1_{channel}.nii.gz").unlink()
    (raw / "imagesTr" / "case_2_0001.nii.gz").unlink()
    (raw / "imagesTr" / "case_3_0001.nii.gz").rename(raw / "imagesTr" / "odd.nii.gz")
    with pytest.raises(DatasetError) as caught:
        RawDataset.open(raw)
    message = str(caught.value)
    assert "case_0_0000.nii.gz: an image without label; expected " in message
    assert "case_1.nii.gz: a label without image; expected " in message
    assert "case_2: expected the channel files _0000, _0001.nii.gz (T1, T2), found _0000" in message
    assert "odd.nii.gz: an image is named with its channel in four digits; " in message
    assert message.endswith("\nRename, add or remove these files, or correct dataset.json.")


def test_images_without_the_number_of_their_channel_are_told_their_name(tmp_path):
    raw = make_dataset(tmp_path, cases=2)
    (raw / "imagesTr" / "case_0_0000.nii.gz").rename(raw / "imagesTr" / "case_0.nii.gz")
    with pytest.raises(DatasetError, match="the only channel is case_0_0000.nii.gz") as caught:
        RawDataset.open(raw)
    assert "a label without image" not in str(caught.value)


def test_a_sound_case_has_no_findings(case):
    assert check_case(case, DESCRIPTION) == []


def test_shape_spacing_and_direction_must_agree(case):
    _, label = blobs((10, 12, 14), seed=0)
    write_volume(case.label, label[:9], (2.0, 1.0, 1.5))
    assert "differ in shape: (9, 12, 14) and (10, 12, 14)" in errors_of(case)
    write_volume(case.label, label, (2.0, 1.01, 1.5))
    assert "differ in spacing: " in errors_of(case)
    write_volume(case.label, label, (2.0, 1.0, 1.5), direction=(-1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    assert "differ in direction: " in errors_of(case) and "turned or mirrored" in errors_of(case)
    write_volume(case.label, label, (2.0, 1.0 + 1e-5, 1.5))
    assert errors_of(case) == ""  # round-off of headers is tolerated


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_nonfinite_voxels_are_found_in_every_format(tmp_path, value, ending):
    image = np.ones((5, 6, 7), dtype=np.float32)
    image[1, 2, 3] = image[4, 5, 6] = value
    write_volume(tmp_path / f"a_0000{ending}", image)
    case = RawCase(identifier="a", images=(tmp_path / f"a_0000{ending}",), label=None)
    assert f"a_0000{ending} has 2 NaN or infinite voxels" in errors_of(case)


def test_nonfinite_voxels_in_doubles_and_big_endian(tmp_path):
    image = np.zeros((3, 4, 5))
    image[0, 0, 0] = np.nan
    write_volume(tmp_path / "double.nii", image)
    assert count_nonfinite(tmp_path / "double.nii") == 1
    content = (tmp_path / "double.nii").read_bytes()
    header = bytearray(content[:352])
    header[0:4] = struct.pack(">i", 348)
    for start, end in ((40, 56), (70, 74)):  # dim; datatype and bits per voxel
        header[start:end] = np.frombuffer(header[start:end], "<i2").astype(">i2").tobytes()
    header[108:120] = struct.pack(">3f", 352.0, 1.0, 0.0)  # where the voxels begin; scale and shift
    (tmp_path / "big.nii").write_bytes(bytes(header) + image.astype(">f8").tobytes())
    assert count_nonfinite(tmp_path / "big.nii") == 1


def test_undeclared_labels_are_named(case):
    _, label = blobs((10, 12, 14), seed=0)
    write_volume(case.label, (label > 0).astype(np.uint8) * 255, (2.0, 1.0, 1.5))
    message = errors_of(case)
    assert "holds the values 255, which dataset.json does not declare (it has [0, 1, 2])" in message
    assert "scaled for viewing" in message


def test_labels_stored_as_float_are_accepted_if_whole(case):
    _, label = blobs((10, 12, 14), seed=0)
    write_volume(case.label, label.astype(np.float32) + 1e-5, (2.0, 1.0, 1.5))
    np.testing.assert_array_equal(read_label(case.label)[0], label)
    write_volume(case.label, label.astype(np.float32) + 0.25, (2.0, 1.0, 1.5))
    assert "values that are no whole numbers (such as" in errors_of(case)


def test_truncated_files_are_named(case):
    content = case.images[0].read_bytes()
    case.images[0].write_bytes(content[: len(content) // 2])
    assert "a_0000.nii.gz cannot be read (" in errors_of(case) and "damaged or cut off" in errors_of(case)


def test_4d_files_are_refused(tmp_path, case):
    image = sitk.JoinSeries([sitk.ReadImage(str(case.images[0]))] * 2)
    sitk.WriteImage(image, str(case.images[0]))
    assert "has 4 dimensions of size (14, 12, 10, 2)" in errors_of(case) and "Split a 4D file" in errors_of(case)


def test_channels_must_share_shape_and_spacing(tmp_path, case):
    two = DatasetDescription(**{**vars(DESCRIPTION), "channel_names": ("T1", "T2")})
    second = tmp_path / "a_0001.nii.gz"
    both = RawCase(identifier="a", images=(case.images[0], second), label=case.label)
    image, _ = blobs((10, 12, 14), seed=1)
    write_volume(second, image[:, :11], (2.0, 1.0, 1.5))
    assert "a_0001.nii.gz has shape (10, 11, 14)" in errors_of(both, two)
    write_volume(second, image, (2.0, 1.0, 3.0))
    assert "a_0001.nii.gz has spacing (2.0, 1.0, 3.0) mm" in errors_of(both, two)
    write_volume(second, image, (2.0, 1.0, 1.5))
    assert errors_of(both, two) == ""
    assert "give 2 channel(s); expected are 1 (MR)" in errors_of(both)


@pytest.mark.parametrize("spacing", [0.0, -1.5, float("nan")])
def test_impossible_spacing(case, spacing):
    """NIfTI headers with bad voxel sizes: ITK reads |s| for s < 0, and refuses or repairs the others; never silence."""
    content = bytearray(gzip.decompress(case.images[0].read_bytes()))
    content[80:84] = struct.pack("<f", spacing)  # pixdim[1], x
    content[252:256] = b"\0\0\0\0"  # qform_code and sform_code 0: pixdim alone counts
    case.images[0].write_bytes(gzip.compress(bytes(content)))
    if spacing < 0:
        assert read_geometry(case.images[0]).spacing == (2.0, 1.0, 1.5)
    else:
        assert errors_of(case) != ""


def test_zero_spacing_of_a_geometry_is_an_error(case, monkeypatch):
    import dataclasses

    from umamba.raw import checks

    image, geometry = read_images(case.images)
    broken = dataclasses.replace(geometry, spacing=(0.0, 1.0, float("nan")))
    monkeypatch.setattr(checks, "read_images", lambda _: (image, broken))
    assert "has spacing (0.0, 1.0, nan) mm (z, y, x); expected numbers > 0" in errors_of(case)


def test_zeros_and_missing_foreground_are_warnings(case):
    write_volume(case.images[0], np.zeros((10, 12, 14), np.float32), (2.0, 1.0, 1.5))
    write_volume(case.label, np.zeros((10, 12, 14), np.uint8), (2.0, 1.0, 1.5))
    findings = check_case(case, DESCRIPTION)
    assert [f.severity for f in findings] == ["warning", "warning"]
    assert "holds zeros only" in findings[0].message and "has no foreground" in findings[1].message
    raise_errors(findings)


def test_geometry_and_axis_order(case):
    image, geometry = read_images(case.images)
    assert image.shape == (1, 10, 12, 14) and image.dtype == np.float32
    assert geometry.spacing == (2.0, 1.0, 1.5) and geometry.shape == (10, 12, 14) and geometry.dimension == 3
    assert read_geometry(case.images[0]) == geometry


def test_pictures_of_every_kind(tmp_path):
    raw = make_pictures(tmp_path / "raw")
    opened = RawDataset.open(raw)
    assert all(check_case(c, opened) == [] for c in opened.training_cases)
    image, geometry = read_images(opened.training_cases[0].images)
    assert image.shape == (3, 1, 40, 56) and geometry.spacing == (999.0, 1.0, 1.0) and geometry.dimension == 2
    rgba = np.dstack([np.moveaxis(image[:, 0], 0, -1), np.full((40, 56), 255)]).astype(np.uint8)
    skio.imsave(tmp_path / "rgba_0000.png", rgba, check_contrast=False)
    np.testing.assert_array_equal(read_images([tmp_path / "rgba_0000.png"])[0], image)
    skio.imsave(tmp_path / "grey.bmp", rgba[..., 0], check_contrast=False)
    assert read_images([tmp_path / "grey.bmp"])[0].shape == (1, 1, 40, 56)
    tifffile.imwrite(tmp_path / "wide.tif", rgba[..., 0].astype(np.uint16) * 200)
    assert read_images([tmp_path / "wide.tif"])[0].max() > 255
    skio.imsave(tmp_path / "rgb_label.png", rgba[..., :3], check_contrast=False)
    with pytest.raises(DatasetError, match="colour picture of 3 channels"):
        read_label(tmp_path / "rgb_label.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgba_0000.png").read_bytes()[:200])
    with pytest.raises(DatasetError, match="cut.png cannot be read as a picture"):
        read_images([tmp_path / "cut.png"])


def test_3d_tiff_takes_its_spacing_from_the_json_beside_it(tmp_path):
    tifffile.imwrite(tmp_path / "cell_0000.tif", np.zeros((6, 20, 24), np.uint8))
    with pytest.raises(DatasetError, match="3D TIFF, which has no voxel size of its own. Put cell.json beside it"):
        read_images([tmp_path / "cell_0000.tif"])
    (tmp_path / "cell.json").write_text('{"spacing": [2.0, 0.5, 0.5]}')
    image, geometry = read_images([tmp_path / "cell_0000.tif"])
    assert image.shape == (1, 6, 20, 24) and geometry.spacing == (2.0, 0.5, 0.5) and geometry.dimension == 3
    (tmp_path / "cell.json").write_text("{}")
    with pytest.raises(DatasetError, match="cell.json must hold"):
        read_images([tmp_path / "cell_0000.tif"])


def test_2d_volume_files(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((20, 30), np.float32))
    image.SetSpacing((0.5, 0.8))
    sitk.WriteImage(image, str(tmp_path / "flat_0000.nii.gz"))
    array, geometry = read_images([tmp_path / "flat_0000.nii.gz"])
    assert array.shape == (1, 1, 20, 30)
    assert geometry.spacing == pytest.approx((999 * 0.8, 0.8, 0.5)) and geometry.dimension == 2


@pytest.mark.parametrize("name", ["p.nii.gz", "p.nrrd", "p.mha"])
def test_written_labels_carry_the_geometry(tmp_path, case, name):
    direction = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    image, label = blobs((10, 12, 14), seed=3)
    write_volume(tmp_path / "turned_0000.nii.gz", image, (2.0, 1.0, 1.5), direction)
    geometry = read_geometry(tmp_path / "turned_0000.nii.gz")
    write_label(label, tmp_path / name, geometry)
    again, written = read_label(tmp_path / name)
    np.testing.assert_array_equal(again, label)
    for key in ("spacing", "origin", "direction", "shape"):
        assert getattr(written, key) == pytest.approx(getattr(geometry, key), abs=1e-6)
    assert not list(tmp_path.glob(".writing*"))
    with pytest.raises(ValueError, match="label map has shape"):
        write_label(label[1:], tmp_path / name, geometry)


def test_written_pictures_and_wide_labels(tmp_path):
    raw = make_pictures(tmp_path / "raw")
    picture = raw / "imagesTr" / "case_0_0000.png"
    label, _ = read_label(raw / "labelsTr" / "case_0.png")
    for name in ("p.png", "p.tif", "p.bmp"):
        write_label(label, tmp_path / name, read_geometry(picture))
        np.testing.assert_array_equal(read_label(tmp_path / name)[0], label)
    write_label(label * 300, tmp_path / "wide.png", read_geometry(picture))
    assert read_label(tmp_path / "wide.png")[0].max() == 600


def test_missing_files_are_named():
    with pytest.raises(FileNotFoundError, match="nothing_0000.nii.gz does not exist"):
        read_images([Path("nothing_0000.nii.gz")])


@pytest.mark.parametrize("name", ["../../victim/precious", "", ".", "/etc", "a\nb", "x" * 201])
def test_a_case_whose_name_leads_elsewhere_is_refused(tmp_path, name):
    raw = make_dataset(tmp_path / "raw", cases=1)
    content = json.loads((raw / "dataset.json").read_text())
    content["dataset"] = {name: {"images": ["imagesTr/case_0_0000.nii.gz"], "label": "labelsTr/case_0.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="dataset.json, under dataset: A case cannot be called"):
        RawDataset.open(raw)
