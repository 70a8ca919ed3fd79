"""Axes of NIfTI files: what a header rounds is taken, where it lies is what the true axes say; a shear is refused."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.datamodules.prepare.volumes import read_volume
from umamba.raw.description import DatasetError
from umamba.raw.doubts import file_doubts
from umamba.raw.readers import read_geometry, read_images, read_label, write_label

VOXELS = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8)
ZOOM = np.array([0.5, 0.7, 3.0])  # x, y, z
# About x, y, z by 0.3, 0.2 and 0.1: quaternion a, b, c, d and the matrix it stands for
QUATERNION = np.array([0.9833474432563558, 0.14357217502739186, 0.10602051106179562, 0.0342707985504821])
A, B, C, D = QUATERNION
TURN = np.array([
    [A * A + B * B - C * C - D * D, 2 * (B * C - A * D), 2 * (B * D + A * C)],
    [2 * (B * C + A * D), A * A + C * C - B * B - D * D, 2 * (C * D - A * B)],
    [2 * (B * D - A * C), 2 * (C * D + A * B), A * A + D * D - B * B - C * C],
])  # fmt: skip
TO_LPS = np.diag([-1, -1, 1])


def written(path: Path, axes: np.ndarray, *, qform: bool = False, mirrored: bool = False) -> Path:
    """A file with these vectors of its axes (mm, in columns) as its sform; its qform says `TURN`."""
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), path.with_suffix(".nii"))
    content = bytearray(path.with_suffix(".nii").read_bytes())
    struct.pack_into("<4f", content, 76, -1 if mirrored else 1, *ZOOM)
    struct.pack_into("<2h", content, 252, int(qform), 1)
    struct.pack_into("<6f", content, 256, *QUATERNION[1:], 10, 20, 30)
    struct.pack_into("<12f", content, 280, *np.column_stack([axes, [10, 20, 30]]).ravel())
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("asked", [None, "1"], ids=["", "permissive"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("decimals", "qform"), [(3, False), (3, True), (2, True), (7, False), (7, True)])
def test_rounded_axes_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decimals: int, qform: bool, mirrored: bool, asked: str | None
) -> None:
    """With ITK_NIFTI_SFORM_PERMISSIVE SimpleITK turns them the other way, by up to 0.56 in the cosines of this file."""
    if asked:
        monkeypatch.setenv("ITK_NIFTI_SFORM_PERMISSIVE", asked)
    turn = TURN * [1, 1, -1 if mirrored else 1]
    path = written(tmp_path / "a.nii", np.round(turn * ZOOM, decimals), qform=qform, mirrored=mirrored)
    image, geometry = read_images([path])
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_array_equal(read_label(path)[0], VOXELS)
    np.testing.assert_allclose(geometry.spacing, ZOOM[::-1], rtol=1e-6)
    found = np.reshape(geometry.direction, (3, 3))
    np.testing.assert_allclose(found, TO_LPS @ turn, atol=1e-6 if qform or decimals == 7 else 1e-3)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-6)
    assert geometry.origin == (-10.0, -20.0, 30.0)
    np.testing.assert_allclose(read_volume(path).GetDirection(), geometry.direction)
    write_label(VOXELS % 3, tmp_path / "label.nii.gz", geometry)
    np.testing.assert_allclose(read_geometry(tmp_path / "label.nii.gz").direction, geometry.direction, atol=1e-6)
    assert [kind for kind, _ in file_doubts(path)] == ["axes"] * (decimals == 3 and not qform)


def elsewhere(path: Path, axes: np.ndarray, sform_code: int) -> Path:
    """Its qform puts it 5 mm along x from where its sform does."""
    content = bytearray(written(path, axes, qform=True).read_bytes())
    struct.pack_into("<h", content, 254, sform_code)
    struct.pack_into("<f", content, 268, 15)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("code", "used", "x"), [(1, "sform", -10), (2, "qform", -15), (4, "qform", -15)])
def test_two_places_in_a_header_are_said_with_the_one_that_is_used(
    tmp_path: Path, code: int, used: str, x: float
) -> None:
    path = elsewhere(tmp_path / "a.nii", TURN * ZOOM, code)
    assert read_geometry(path).origin == (x, -20.0, 30.0) == sitk.ReadImage(str(path)).GetOrigin()
    ((kind, message),) = file_doubts(path)
    assert kind == "place" and "10 voxels elsewhere" in message and f"the {used} is used" in message


@pytest.mark.parametrize("code", [1, 2])
@pytest.mark.parametrize("asked", [None, "1"], ids=["", "permissive"])
def test_two_places_of_which_rounding_chooses_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, code: int
) -> None:
    if asked:
        monkeypatch.setenv("ITK_NIFTI_SFORM_PERMISSIVE", asked)
    with pytest.raises(DatasetError, match="5 mm elsewhere by its qform"):
        read_geometry(elsewhere(tmp_path / "a.nii", np.round(TURN * ZOOM, 3), code))


@pytest.mark.parametrize("asked", [None, "1"], ids=["", "permissive"])
@pytest.mark.parametrize("degrees", [0.05, 0.2, 1.0])
def test_rounded_axes_beside_others_are_refused_or_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, degrees: float
) -> None:
    """SimpleITK, told to take them, puts these axes up to 44 degrees beside both forms, in silence."""
    if asked:
        monkeypatch.setenv("ITK_NIFTI_SFORM_PERMISSIVE", asked)
    angle = np.deg2rad(degrees)
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    path = written(tmp_path / "a.nii", np.round(about_z @ TURN * ZOOM, 3), qform=True)
    if degrees > 0.1:
        with pytest.raises(DatasetError, match="elsewhere by its qform"):
            read_geometry(path)
    else:
        found = np.reshape(read_geometry(path).direction, (3, 3))
        np.testing.assert_allclose(found, TO_LPS @ TURN, atol=2e-3)


def test_threads_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    """One of them would put the environment back while another reads."""
    path = written(tmp_path / "a.nii", np.round(TURN * ZOOM, 3))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: read_label(path)[1].direction, range(200)))
    assert len(set(found)) == 1
    assert "ITK_NIFTI_SFORM_PERMISSIVE" not in os.environ


@pytest.mark.parametrize("asked", [None, "1"], ids=["", "permissive"])
@pytest.mark.parametrize("qform", [False, True])
@pytest.mark.parametrize("skew", [0.01, 0.1])
def test_a_real_shear_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float, qform: bool, asked: str | None
) -> None:
    """Beside a qform that does not have it SimpleITK passes over the shear, by which distances are others."""
    if asked:
        monkeypatch.setenv("ITK_NIFTI_SFORM_PERMISSIVE", asked)
    for shear in ([[1, skew, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, skew, 1]]):
        with pytest.raises(DatasetError, match="axes that are not at right angles"):
            read_geometry(written(tmp_path / "a.nii", (TURN * ZOOM) @ shear, qform=qform))
