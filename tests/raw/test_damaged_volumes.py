"""Volumes of the right length that are damaged inside, lack a voxel size, or hold values that do not fit."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.raw.checks import check_case, read_sound_images
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.nifti import check_length
from umamba.raw.readers import Geometry, read_geometry, read_images, read_label, write_label

SMOOTH = np.add.outer(np.arange(20) * 50, np.add.outer(np.arange(40), np.arange(50))).astype(np.int16)
NOISE = np.random.default_rng(0).integers(0, 3000, SMOOTH.shape).astype(np.int16)


def hole(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes(len(content) - half - 8) + content[-8:]


def without_middle(content: bytes) -> bytes:
    return content[: len(content) // 3] + content[len(content) // 2 :]


def flipped(content: bytes) -> bytes:
    at = len(content) * 3 // 4
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def wrong_checksum(content: bytes) -> bytes:
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]


def write(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), path, True)
    return path


@pytest.mark.parametrize("array", [SMOOTH, NOISE, NOISE.astype(np.float32)], ids=["smooth", "noise", "float"])
@pytest.mark.parametrize("damage", [hole, without_middle, flipped, wrong_checksum])
def test_a_damaged_nifti_of_the_right_length_is_refused(
    tmp_path: Path, array: np.ndarray, damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "a_0000.nii.gz", array)
    np.testing.assert_array_equal(read_images([path])[0][0], array)
    path.write_bytes(damage(path.read_bytes()))
    for refuse in (lambda: read_images([path]), lambda: read_label(path)):
        with pytest.raises(DatasetError, match=r"a_0000\.nii\.gz (cannot be read|holds)"):
            refuse()


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("damage", [hole, flipped])
def test_a_damaged_compressed_volume_is_refused(
    tmp_path: Path, ending: str, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture
) -> None:
    path = write(tmp_path / f"a_0000{ending}", NOISE)
    np.testing.assert_array_equal(read_images([path])[0][0], NOISE)
    voxels = path.with_suffix(".zraw") if ending == ".mhd" else path
    voxels.write_bytes(damage(voxels.read_bytes()))
    with pytest.raises(DatasetError, match=rf"a_0000\{ending} cannot be read"):
        read_images([path])


def with_pixdim(path: Path, axis: int, value: float) -> Path:
    plain = path.with_name("plain.nii")
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), plain)
    content = bytearray(plain.read_bytes())
    content[76 + 4 * axis : 80 + 4 * axis] = struct.pack("<f", value)
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("stated", ["none", "zero", "half", "right", "another name"])
def test_the_length_that_a_compressed_metaimage_states_is_true(tmp_path: Path, detached: bool, stated: str) -> None:
    """By a smaller one SimpleITK leaves the rest of the memory as it was; voxels in a file of their own need none."""
    path = write(tmp_path / f"a{'.mhd' if detached else '.mha'}", NOISE)
    head, line, rest = path.read_bytes().partition(b"CompressedDataSize")
    number, rest = rest.split(b"\n", 1)
    size = int(number.strip(b" ="))
    said = {"none": None, "zero": 0, "half": size // 2, "right": size, "another name": size}[stated]
    line = line.lower() if stated == "another name" else line  # which SimpleITK does not know
    path.write_bytes(head + (b"" if said is None else line + b" = %d\n" % said) + rest)
    if stated == "right" or (detached and stated != "half"):
        assert np.array_equal(read_label(path)[0], NOISE)
    else:
        with pytest.raises(DatasetError, match=f"CompressedDataSize = .* take {size} bytes"):
            read_label(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("axis", "value"), [(1, 0.0), (3, 0.0), (2, float("nan")), (3, float("inf"))])
def test_a_voxel_size_that_is_none_is_refused(tmp_path: Path, ending: str, axis: int, value: float) -> None:
    path = with_pixdim(tmp_path / f"a{ending}", axis, value)
    for refuse in (lambda: read_images([path]), lambda: read_label(path), lambda: check_length(path)):
        with pytest.raises(DatasetError, match=rf"a\{ending} (has the voxel size .*pixdim|cannot be read)"):
            refuse()


def test_two_voxel_sizes_that_disagree_are_a_warning(tmp_path: Path) -> None:
    for size, findings in ((1.0, []), (1.005, []), (10.0, ["spacing"])):
        path = with_pixdim(tmp_path / f"{size}_0000.nii", 3, size)  # sform says 1 mm
        found = check_case(*case_of(path))
        assert [finding.kind for finding in found] == findings
        assert read_geometry(path).spacing[0] == pytest.approx(size)
        assert all(
            f.severity == "warning" and "10.0) mm by pixdim, (1.0, 1.0, 1.0) by sform" in f.message for f in found
        )


def test_a_negative_voxel_size_and_the_fourth_axis_are_no_fault(tmp_path: Path) -> None:
    assert read_geometry(with_pixdim(tmp_path / "a.nii", 3, -2.0)).spacing == (2.0, 1.0, 1.0)
    assert read_images([with_pixdim(tmp_path / "b.nii", 4, 0.0)])[0].shape == (1, *NOISE.shape)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize(("ending", "words"), [(".mha", "ElementSpacing = 1 1 1"), (".nrrd", "spacings: 1 1 1")])
def test_a_negative_step_turns_the_axis_round(tmp_path: Path, ending: str, words: str, axis: int) -> None:
    """As in ITK's image; the header alone, which is read first, says it otherwise."""
    path = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(NOISE)
    image.SetOrigin((5, 6, 7))
    sitk.WriteImage(image, path)
    content = path.read_bytes()
    if ending == ".nrrd":
        directions = b"space directions: (1,0,0) (0,1,0) (0,0,1)"
        assert directions in content
        content = content.replace(directions, b"spacings: 1 1 1").replace(b"space: left-posterior-superior\n", b"")
        content = re.sub(rb"space origin: .*\n", b"", content)
    assert words.encode() in content
    steps = ["-1" if number == axis else "1" for number in range(3)]
    path.write_bytes(content.replace(words.encode(), f"{words[:-5]}{' '.join(steps)}".encode()))
    geometry, expected = read_geometry(path), sitk.ReadImage(path)
    assert geometry.spacing == (1, 1, 1) and geometry.direction == expected.GetDirection()
    assert geometry.direction[4 * axis] == -1 and geometry.origin == expected.GetOrigin()
    write_label(NOISE % 3, tmp_path / f"label{ending}", geometry)
    again = sitk.ReadImage(tmp_path / f"label{ending}")
    assert again.GetDirection() == expected.GetDirection() and again.GetOrigin() == expected.GetOrigin()


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_axes_that_are_not_at_right_angles_are_refused(tmp_path: Path, ending: str) -> None:
    """ITK writes NIfTI of them somewhere else; NIfTI of such a kind it does not read. Rounded headers are no fault."""
    image = sitk.GetImageFromArray(NOISE)
    for skew in (0.5, 0.01, 1e-4):
        along = np.asarray([skew, 1, 0]) / np.hypot(skew, 1)
        image.SetDirection(np.column_stack([[1, 0, 0], along, [0, 0, 1]]).ravel().tolist())
        sitk.WriteImage(image, tmp_path / f"a{ending}")
        if skew < 1e-3:
            assert read_geometry(tmp_path / f"a{ending}").direction == pytest.approx(image.GetDirection())
        else:
            with pytest.raises(DatasetError, match="axes that are not at right angles"):
                read_geometry(tmp_path / f"a{ending}")


def case_of(image: Path) -> tuple[RawCase, DatasetDescription]:
    description = DatasetDescription(
        name="a", channel_names=("CT",), labels={"background": 0, "organ": 1}, file_ending=".nii.gz", num_training=1
    )
    return RawCase(identifier="a", images=(image,), label=None), description


def test_values_beyond_float32_are_a_fault(tmp_path: Path) -> None:
    double = write(tmp_path / "double_0000.nii.gz", np.linspace(1, 1e303, 1000).reshape(10, 10, 10))
    scaled = with_pixdim(tmp_path / "scaled_0000.nii", 1, 1.0)
    content = bytearray(scaled.read_bytes())
    content[112:116] = struct.pack("<f", 1e38)  # scl_slope
    scaled.write_bytes(bytes(content))
    for path in (double, scaled):
        with np.errstate(over="ignore"):
            findings = check_case(*case_of(path))
            assert [(finding.kind, finding.severity) for finding in findings] == [("values", "error")]
            with pytest.raises(DatasetError, match=rf"{path.name} has \d+ NaN or infinite voxels .*float32"):
                read_sound_images([path], ("CT",))


@pytest.mark.parametrize(("ending", "dtype"), [(".nii.gz", np.int64), (".mha", np.float64), (".nrrd", np.uint32)])
def test_label_values_that_do_not_fit_are_refused(tmp_path: Path, ending: str, dtype: type) -> None:
    largest = 2**32 - 1 if dtype == np.uint32 else 2**32 + 2
    path = write(tmp_path / f"a{ending}", np.array([[[0, 1], [largest, 1]]], dtype=dtype))
    with pytest.raises(DatasetError, match=rf"a\{ending} holds the values 0 to {largest}"):
        read_label(path)
    fits = write(tmp_path / f"b{ending}", np.array([[[0, 1], [2**31 - 1, 1]]], dtype=dtype))
    assert read_label(fits)[0].max() == 2**31 - 1


@pytest.mark.parametrize("value", [-1, 65536])
def test_a_label_map_that_does_not_fit_its_file_is_not_written(tmp_path: Path, value: int) -> None:
    geometry = Geometry(
        spacing=(1.0,) * 3, origin=(0.0,) * 3, direction=tuple(np.eye(3).ravel()), shape=(1, 1, 2), dimension=3
    )
    with pytest.raises(ValueError, match=r"values .* a file takes 0 to 65535: cannot write .*a\.nii\.gz"):
        write_label(np.array([[[0, value]]]), tmp_path / "a.nii.gz", geometry)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_2_file_is_named_as_such_and_not_as_damaged(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a_0000{ending}"
    header = struct.pack("<i8s2h8q", 540, b"n+2\0\r\n\x1a\n", 4, 16, 3, 4, 5, 6, 1, 1, 1, 1) + bytes(460)
    content = header + np.zeros(120, "<i2").tobytes()
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    with pytest.raises(DatasetError, match=r"a_0000.* It is of NIfTI-2.*write it as NIfTI-1"):
        read_images([path])
