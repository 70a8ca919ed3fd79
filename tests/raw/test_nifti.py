"""NIfTI files that SimpleITK reads without a word although they are cut off or hold NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.raw.checks import check_case
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.nifti import count_nonfinite


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
