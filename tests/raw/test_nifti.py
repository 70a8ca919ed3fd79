"""NIfTI files that SimpleITK reads without a word although they are cut off or hold NaN."""

from __future__ import annotations

import gzip
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.raw import inflate, nifti
from umamba.raw.checks import check_case
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.nifti import count_nonfinite, read_whole_numbers
from umamba.raw.volume_files import open_volume, read_array


def write(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, dtype: str, ending: str, share: float) -> None:
    array = np.random.default_rng(0).uniform(0, 100, (5, 20, 30)).astype(dtype)
    path = write(tmp_path / f"image{ending}", array)
    assert count_nonfinite(path) == 0
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    sitk.ReadImage(path)  # no complaint: why this check exists
    with pytest.raises(DatasetError, match=rf"image{ending} .*cut off"):
        count_nonfinite(path)


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_truncated_file_is_a_finding(tmp_path: Path, which: str) -> None:
    image = write(tmp_path / "a_0000.nii.gz", np.random.default_rng(0).integers(0, 99, (5, 20, 30)).astype(np.int16))
    label = write(tmp_path / "a.nii.gz", np.random.default_rng(1).integers(0, 2, (5, 20, 30)).astype(np.uint8))
    description = DatasetDescription(
        name="a", channel_names=("MR",), labels={"background": 0, "organ": 1}, file_ending=".nii.gz", num_training=1
    )
    case = RawCase(identifier="a", images=(image,), label=label)
    assert check_case(case, description) == []
    path = image if which == "image" else label
    path.write_bytes(path.read_bytes()[:-40])
    findings = check_case(case, description)
    assert [(finding.kind, finding.severity) for finding in findings] == [("unreadable", "error")]
    assert str(path) in findings[0].message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_are_counted(tmp_path: Path, dtype: str) -> None:
    array = np.zeros((5, 20, 30), dtype)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    assert count_nonfinite(write(tmp_path / "image.nii.gz", array)) == 3


def nifti_file(array: np.ndarray, *, scale: tuple[float, float], parts: int) -> bytes:
    """A compressed NIfTI file in the byte order of the array, of one or several gzip members."""
    order = ">" if array.dtype.byteorder == ">" else "<"
    code = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "i1": 256, "u2": 512, "u4": 768, "i8": 1024}[array.dtype.str[1:]]
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, array.ndim, *array.shape[::-1], *[1] * (7 - array.ndim))
    struct.pack_into(f"{order}2h", header, 70, code, 8 * array.itemsize)
    struct.pack_into(f"{order}8f", header, 76, 1, 0.5, 0.75, 2.5, 1, 1, 1, 1)
    struct.pack_into(f"{order}3f", header, 108, 352, *scale)
    header[344:348] = b"n+1\0"
    whole = bytes(header) + array.tobytes()
    steps = np.linspace(0, len(whole), parts + 1).astype(int)
    return b"".join(gzip.compress(whole[start:stop]) for start, stop in itertools.pairwise(steps))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", "<f4", ">f4"])
@pytest.mark.parametrize(("shape", "parts"), [((5, 20, 30), 1), ((5, 20, 30), 3), ((20, 30), 1)])
def test_voxels_are_those_that_simpleitk_reads(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti, "_CHUNK", 1 << 10)
    stored = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = stored.view(dtype)[..., 0] if np.dtype(dtype).kind != "f" else stored[..., 0].astype(dtype)
    path = tmp_path / "image.nii.gz"
    for scale in [(1, 0), (0, 0), (2, 0), (1, -5), (3, 7)]:
        path.write_bytes(nifti_file(array, scale=scale, parts=parts))
        expected = sitk.GetArrayFromImage(sitk.ReadImage(path))
        voxels = read_array(open_volume(path))
        assert voxels.dtype == expected.dtype
        assert np.array_equal(voxels, expected)
        own = read_whole_numbers(path, shape)
        assert (own is not None) == (scale[0] in (0, 1) and scale[1] == 0 and dtype[-2:] not in ("f4", "i8"))
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
            path.write_bytes(damaged)
            with pytest.raises(DatasetError, match="cut off"):
                read_array(open_volume(path))


def test_isal_takes_and_refuses_what_zlib_does(tmp_path: Path) -> None:
    igzip = pytest.importorskip("isal.igzip", reason="isal is not installed")
    assert inflate.igzip is igzip
    whole = gzip.compress(np.random.default_rng(0).integers(0, 9, 20_000, np.uint8).tobytes())
    path = tmp_path / "a.gz"

    def outcome(opened: Callable) -> bytes | str:
        try:
            with opened(path) as file:
                return file.read()
        except inflate.DAMAGES:
            return "damaged"

    random = np.random.default_rng(1)
    flipped = [(place, 1 << random.integers(8)) for place in random.integers(len(whole), size=50)]
    files = [whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :] for place, bit in flipped]
    files += [whole[: len(whole) * n // 20] for n in range(21)] + [whole * 2, whole + bytes(9), whole + b"more"]
    for content in files:
        path.write_bytes(content)
        assert outcome(inflate.open_gzip) == outcome(gzip.open)
