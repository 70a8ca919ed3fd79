"""Channels and labels that lie elsewhere than the first image: told apart by voxels, whichever way the axes point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.datamodules.doctor.quick import header_faults
from umamba.raw.checks import check_case, read_sound_images
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError

TURNED = (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)
DESCRIPTION = DatasetDescription(
    name="Two", channel_names=("T1", "T2"), labels={"background": 0, "a": 1}, file_ending=".nii.gz", num_training=1
)


def write(path: Path, steps: tuple[float, ...], dimension: int = 3, dtype: type = np.float32) -> Path:
    """A volume of ones, moved by so many voxels along its own axes."""
    image = sitk.GetImageFromArray(np.ones((6, 7, 8)[:dimension], dtype))
    image.SetSpacing((0.5, 1.0, 4.0)[:dimension])
    image.SetDirection(np.reshape(TURNED, (3, 3))[:dimension, :dimension].ravel().tolist())
    image.SetOrigin((-120.0, 33.0, 7.0)[:dimension])
    image.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(steps[:dimension]))
    sitk.WriteImage(image, path)
    return path


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(
    ("steps", "severity"),
    [
        ((0.05, -0.05, 0.05), None),
        ((0.5, 0.5, 0.5), "warning"),
        ((0.0, -0.9, 0.0), "warning"),  # 0.9 mm, which is 1.4 voxels along the file's x if axes are not turned
        ((-1.2, 0.0, 0.0), "error"),  # 0.6 mm
        ((0.0, 50.0, 0.0), "error"),
    ],
)
@pytest.mark.parametrize("moved", ["channel", "label"])
def test_a_shift_is_measured_in_voxels(tmp_path: Path, moved: str, steps, severity: str | None, dimension: int) -> None:
    none = (0.0, 0.0, 0.0)
    first = write(tmp_path / "a_0000.nii.gz", none, dimension)
    second = write(tmp_path / "a_0001.nii.gz", steps if moved == "channel" else none, dimension)
    label = write(tmp_path / "a.nii.gz", steps if moved == "label" else none, dimension, np.uint8)
    case = RawCase(identifier="a", images=(first, second), label=label)
    expected = [] if severity is None else [("origin", severity)]
    for findings in (header_faults(case)[0], check_case(case, DESCRIPTION)):
        assert [(finding.kind, finding.severity) for finding in findings] == expected
        assert all(f"{second if moved == 'channel' else label} lies " in finding.message for finding in findings)


def test_a_channel_elsewhere_is_not_predicted_with(tmp_path: Path) -> None:
    first = write(tmp_path / "a_0000.nii.gz", (0.0, 0.0, 0.0))
    doubts: dict[str, str] = {}
    read_sound_images([first, write(tmp_path / "a_0001.nii.gz", (0.0, 0.5, 0.0))], ("T1", "T2"), doubts)
    assert len(doubts) == 1 and "a_0001.nii.gz lies 0.50 voxels away" in doubts["origin"]
    far = write(tmp_path / "a_0001.nii.gz", (0.0, 50.0, 0.0))
    with pytest.raises(DatasetError, match=r"a_0001.nii.gz lies 50.00 voxels away .*CopyInformation"):
        read_sound_images([first, far], ("T1", "T2"), doubts)
    image = sitk.ReadImage(far)
    image.CopyInformation(sitk.ReadImage(first))
    sitk.WriteImage(image, far)
    read_sound_images([first, far], ("T1", "T2"), doubts)
    assert len(doubts) == 1
