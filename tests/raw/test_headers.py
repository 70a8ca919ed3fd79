"""Headers that programs read differently: each is refused or said, for SimpleITK would take one reading of it."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from tests.raw.text_files import LABEL
from umamba.raw.checks import check_case, read_sound_images
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.doubts import file_doubts
from umamba.raw.readers import read_geometry, read_images, read_label

NAN, INF = float("nan"), float("inf")


def nifti(path: Path, *changes: tuple[int, str, list]) -> Path:
    """A file whose header has other values at some offsets."""
    plain = path.with_name("plain.nii")
    sitk.WriteImage(sitk.GetImageFromArray(LABEL), plain)
    content = bytearray(plain.read_bytes())
    for offset, form, values in changes:
        struct.pack_into(f"<{form}", content, offset, *values)
    plain.write_bytes(content)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(bytes(content)))
        return path
    return plain.rename(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("slope", "shift"), [(0, 1), (NAN, 1), (1, NAN), (INF, 0), (1, INF), (1e-20, 0), (1e-17, 1)], ids=str
)
def test_a_scale_that_is_read_differently_is_refused(tmp_path: Path, ending: str, slope: float, shift: float) -> None:
    """SimpleITK adds the shift of a scale of 0, by the standard there is none; it drops scales that are tiny or Inf."""
    path = nifti(tmp_path / f"a{ending}", (112, "2f", [slope, shift]))
    for read in (lambda: read_images([path]), lambda: read_label(path)):
        with pytest.raises(DatasetError, match=r"scl_slope .* and scl_inter .*Write 1 and 0"):
            read()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("slope", "shift"), [(0, 0), (NAN, NAN), (NAN, 0), (0, NAN), (1, 0)], ids=str)
def test_values_without_a_scale_are_as_they_are_stored(tmp_path: Path, ending: str, slope: float, shift: float) -> None:
    path = nifti(tmp_path / f"a{ending}", (112, "2f", [slope, shift]))
    np.testing.assert_array_equal(read_label(path)[0], LABEL)


def test_a_scale_is_applied(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", (112, "2f", [2, -3]))
    np.testing.assert_array_equal(read_images([path])[0][0], LABEL * 2.0 - 3)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("offset", [0, 100, 348, -5])
def test_voxels_within_the_header_are_refused(tmp_path: Path, ending: str, offset: float) -> None:
    with pytest.raises(DatasetError, match=rf"begin at byte {offset} \(vox_offset\)"):
        read_label(nifti(tmp_path / f"a{ending}", (108, "f", [offset])))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_analyze_is_refused_and_bits_do_not_count(tmp_path: Path, ending: str) -> None:
    with pytest.raises(DatasetError, match=r"ANALYZE 7\.5, which does not say where its axes point"):
        read_label(nifti(tmp_path / f"a{ending}", (344, "4s", [b""])))
    path = nifti(tmp_path / f"b{ending}", (70, "2h", [4, 8]))  # int16 that are said to have 8 bits
    with pytest.raises(DatasetError, match=r"holds 120 of 240 bytes of voxels"):
        read_label(path)


def test_a_negative_size_in_nifti_is_said(tmp_path: Path) -> None:
    """ITK mirrors the axis, nibabel does not: what is written lies as ITK sees it, and that is said."""
    path = nifti(tmp_path / "a.nii.gz", (80, "3f", [1, -1, 1]))
    doubts: dict[str, str] = {}
    _, geometry = read_sound_images([path], ["CT"], doubts)
    assert "has a negative voxel size, (1.0, -1.0, 1.0) mm" in doubts["spacing"]
    assert geometry.direction == sitk.ReadImage(path).GetDirection() and geometry.direction[4] == -1


@pytest.mark.parametrize(
    ("code", "unit", "mm"), [(1, "metres", 1000), (3, "micrometres", 1e-3), (2, "", 1), (0, "", 1)]
)
def test_units_other_than_mm_in_nifti_are_turned_and_said(tmp_path: Path, code: int, unit: str, mm: float) -> None:
    """As ITK does; 8 beside it is the unit of time."""
    path = nifti(tmp_path / "a.nii.gz", (123, "B", [code + 8]), (76, "4f", [1, 2, 3, 4]), (252, "2h", [0, 0]))
    np.testing.assert_allclose(read_geometry(path).spacing, np.array([4, 3, 2]) * mm)
    said = [message for kind, message in file_doubts(path)]
    assert len(said) == bool(unit) and all(f"states its sizes in {unit} (xyzt_units)" in one for one in said)


@pytest.mark.parametrize("read", [read_geometry, read_label, lambda path: read_images([path])])
def test_a_compressed_file_beside_its_plain_one_is_refused(tmp_path: Path, read: Callable) -> None:
    """SimpleITK takes the header of the one and the voxels of the other, as it does for its own reader of both."""
    path = nifti(tmp_path / "a.nii.gz")
    (tmp_path / "plain.nii").rename(tmp_path / "b.nii")
    read(path)
    sitk.WriteImage(sitk.GetImageFromArray(LABEL * 0), tmp_path / "a.nii")
    with pytest.raises(DatasetError, match=r"a\.nii lies beside it.* Move one of the two away"):
        read(path)
    read(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.NII.GZ", "a.Nii", "a.NRRD", "a.nhdr", "a.hdr", "a.vtk"])
def test_an_ending_by_which_nothing_would_be_checked_is_refused(tmp_path: Path, name: str) -> None:
    """SimpleITK reads these: without the checks of checksum, length, units and scale that the ending asks for."""
    nifti(tmp_path / "a.nii").rename(tmp_path / name)
    with pytest.raises(DatasetError, match="has an ending that is not known; expected .*Rename it"):
        read_images([tmp_path / name])


def test_pictures_that_are_shown_otherwise_are_said(tmp_path: Path) -> None:
    picture = Image.fromarray(LABEL[0])
    turned = Image.Exif()
    turned[274] = 6
    picture.save(tmp_path / "turned.png", exif=turned)
    picture.save(tmp_path / "plain.png")
    tifffile.imwrite(tmp_path / "turned.tif", LABEL[0], extratags=[(274, 3, 1, 6, True)])
    tifffile.imwrite(tmp_path / "white.tif", LABEL[0], photometric="miniswhite")
    tifffile.imwrite(tmp_path / "plain.tif", LABEL[0])
    said = {path.name: [message for _, message in file_doubts(path)] for path in sorted(tmp_path.iterdir())}
    assert said["plain.png"] == said["plain.tif"] == []
    assert all("shown turned or mirrored (orientation 6)" in said[name][0] for name in ("turned.png", "turned.tif"))
    assert "shown with 0 as white" in said["white.tif"][0]
    description = DatasetDescription(
        name="a", channel_names=("R",), labels={"background": 0, "a": 1, "b": 2}, file_ending=".tif", num_training=1
    )
    case = RawCase(identifier="a", images=(tmp_path / "plain.tif",), label=tmp_path / "turned.tif")
    assert [(found.kind, found.severity) for found in check_case(case, description)] == [("picture", "warning")]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_png_of_few_bits_hold_the_numbers_of_the_classes(tmp_path: Path, bits: int) -> None:
    """Pillow reads 0, 1, 2, 3 of two bits as 0, 85, 170, 255."""
    numbers = np.arange(4 * 2**bits, dtype=np.uint8).reshape(-1, 4) % 2**bits
    per_byte = 8 // bits
    rows = np.zeros((len(numbers), 4 // per_byte), np.uint8)
    for place in range(per_byte):
        rows |= numbers[:, place::per_byte] << (8 - bits * (place + 1))
    parts = {
        b"IHDR": struct.pack(">2I5B", 4, len(numbers), bits, 0, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts.items()]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0][0], numbers)
