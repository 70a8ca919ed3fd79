"""Files that are cut off are refused, by their length where that is enough; files too large before memory is taken."""

from __future__ import annotations

import gzip
import json
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from tests.inference.small import cut, make_plan, write_image
from umamba import machine
from umamba.datamodules.doctor.quick import header_faults
from umamba.planning.preprocess import preprocess_case
from umamba.raw import pictures, volume_files
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetError
from umamba.raw.pictures import check_picture_whole, read_picture, write_picture
from umamba.raw.readers import Geometry, read_images, read_label
from umamba.raw.volume_files import check_volume_whole

NOISE = np.random.default_rng(0).integers(0, 200, (12, 30, 40)).astype(np.uint8)
VOLUMES = [(ending, compress) for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".gipl") for compress in (True, False)]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize(("ending", "compress"), VOLUMES)
def test_a_volume_that_is_cut_off(tmp_path: Path, ending: str, compress: bool, share: float, monkeypatch) -> None:
    path = tmp_path / f"a_0000{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), path, compress)
    if (ending, compress) != (".nrrd", True):  # its length does not tell: it is read
        monkeypatch.setattr(volume_files, "read_voxels", None)
    check_volume_whole(path)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_images([path])[0][0], NOISE)
    cut(path, share)
    case = RawCase(identifier="a", images=(path,), label=None)
    for refuse in (lambda: check_volume_whole(path), lambda: read_images([path]), lambda: read_label(path)):
        with pytest.raises(DatasetError, match=f"a_0000{ending}"):
            refuse()
    assert [fault.kind for fault in header_faults(case)[0]] == ["unreadable"]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.97])  # the last 12 bytes of a PNG hold no pixel
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.bmp", {}), ("a.tif", {"compression": "zlib"}), ("a.tif", {}), ("a.tiff", {"bigtiff": True})],
)
def test_a_picture_that_is_cut_off(tmp_path: Path, name: str, options: dict, share: float, monkeypatch) -> None:
    path = tmp_path / name
    if name.startswith("a.tif"):
        tifffile.imwrite(path, NOISE, photometric="minisblack", **options)
    else:
        write_picture(NOISE[0], path)
    monkeypatch.setattr(pictures, "read_picture", None)  # a sound one is not decoded
    check_picture_whole(path)
    monkeypatch.undo()
    assert np.array_equal(read_picture(path), NOISE if name.startswith("a.tif") else NOISE[0])
    cut(path, share)
    for refuse in (check_picture_whole, read_picture):
        with pytest.raises(DatasetError, match=path.name):
            refuse(path)


def test_a_gzip_file_of_several_members_is_whole(tmp_path: Path) -> None:
    plain = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), plain)
    content = plain.read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    check_volume_whole(path)


def header_with(path: Path, dim: tuple[int, ...]) -> Path:
    """A NIfTI file with the header of a volume of this size (x, y, z), and few voxels."""
    plain = path.with_name("plain.nii")
    sitk.WriteImage(sitk.GetImageFromArray(NOISE[:1]), plain)
    content = bytearray(plain.read_bytes())
    content[40 : 40 + 2 * (1 + len(dim))] = struct.pack(f"<{1 + len(dim)}h", len(dim), *dim)
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_claims_terabytes_is_refused(tmp_path: Path, ending: str) -> None:
    path = header_with(tmp_path / f"a{ending}", (30_000, 30_000, 30_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=r"30000 x 30000 x 30000 voxels \(its file has 0\.0 MiB\).*GiB needed"):
        read_images([path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_a_bomb_is_refused_by_what_its_header_says_it_becomes(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "bomb.nii.gz"
    sitk.WriteImage(sitk.Image(400, 400, 100, sitk.sitkUInt8), path)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(machine, "free_memory", lambda: 20 << 20)
    with pytest.raises(DatasetError, match="bomb.nii.gz declares 400 x 400 x 100 voxels"):
        read_images([path])


def test_a_gzip_file_that_goes_on_for_ever_is_not_followed(tmp_path: Path) -> None:
    """What comes after the last voxel is read for 16 MiB at most."""
    plain = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), plain)
    path = tmp_path / "b.nii.gz"
    endless = gzip.compress(bytes(64 << 20))
    path.write_bytes(gzip.compress(plain.read_bytes()) + endless * 20 + b"damaged beyond what is read")
    np.testing.assert_array_equal(read_images([path])[0][0], NOISE)


def test_four_dimensions_are_refused_before_a_voxel_is_read(tmp_path: Path) -> None:
    path = header_with(tmp_path / "a.nii.gz", (10_000, 10_000, 1_000, 50))
    with pytest.raises(DatasetError, match=r"a\.nii\.gz has 4 dimensions.*one file per channel"):
        read_images([path])


def test_a_tiff_too_large_is_refused(tmp_path: Path, monkeypatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE, compression="zlib")
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    with pytest.raises(DatasetError, match="a.tif holds .12, 30, 40. values"):
        read_picture(tmp_path / "a.tif")


def test_an_absurd_spacing_is_refused_with_what_the_image_would_become() -> None:
    geometry = Geometry(
        spacing=(200.0,) * 3, origin=(0.0,) * 3, direction=tuple(np.eye(3).ravel()), shape=(50, 50, 60), dimension=3
    )
    plan = make_plan()
    with pytest.raises(
        MemoryError,
        match="50 x 50 x 60 voxels of 200 x 200 x 200 mm and would become 10000 x 10000 x 12000 voxels of 1 x 1 x 1 mm."
        " Correct the spacing",
    ):
        preprocess_case(np.ones((1, 50, 50, 60), np.float32), geometry, None, plan, plan.configuration("3d_fullres"))


def test_a_label_map_with_nan_is_refused(tmp_path: Path) -> None:
    label = np.zeros((4, 5, 6), np.float32)
    label[1, 2, 3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(label), tmp_path / "a.nii.gz")
    with pytest.raises(DatasetError, match="a.nii.gz holds NaN"):
        read_label(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    "text", ["{", "[1, 2, 3]", '{"spacing": [1, 2]}', '{"spacing": ["a", 1, 2]}', '{"spacing": [0, 1, 2]}']
)
def test_a_spacing_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    tifffile.imwrite(tmp_path / "a_0000.tif", NOISE, photometric="minisblack")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json must hold"):
        read_images([tmp_path / "a_0000.tif"])


def test_spacing_of_a_stack_is_read_beside_image_and_label(tmp_path: Path) -> None:
    for name in ("a_0000.tif", "a.tif"):
        tifffile.imwrite(tmp_path / name, NOISE, photometric="minisblack")
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 1, 2]}))
    for geometry in (read_images([tmp_path / "a_0000.tif"])[1], read_label(tmp_path / "a.tif")[1]):
        assert (geometry.spacing, geometry.shape) == ((3.0, 1.0, 2.0), NOISE.shape)


def test_write_image_helper_writes_what_is_read(tmp_path: Path) -> None:
    assert read_images([write_image(tmp_path / "a.nii.gz", (3, 4, 5))])[0].shape == (1, 3, 4, 5)
