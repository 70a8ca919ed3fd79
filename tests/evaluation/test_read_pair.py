"""What a training takes voxel by voxel is scored voxel by voxel; what lies elsewhere is scored by nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.datamodules.doctor.quick import header_faults
from umamba.evaluation.pairs import Pair
from umamba.evaluation.score_pair import GridError, read_pair
from umamba.raw.dataset import RawCase

SPACING = (1.5, 0.75, 5.0)


def write(path: Path, *, moved: float = 0.0, size: tuple[int, int, int] = (4, 6, 8)) -> Path:
    """A label map, moved by a part of a voxel along its first axis."""
    image = sitk.GetImageFromArray(np.ones(size, np.uint8))
    image.SetSpacing(SPACING)
    image.SetOrigin((-120.0 + moved * SPACING[0], 33.0, 7.0))
    sitk.WriteImage(image, path)
    return path


@pytest.mark.parametrize("moved", [0.0, 0.02 / 1.5, 0.09, 0.3, 0.9, 1.2, -4.0])
def test_training_and_scoring_take_the_same_labels(tmp_path: Path, moved: float) -> None:
    image, prediction = write(tmp_path / "c_0000.nii.gz"), write(tmp_path / "prediction.nii.gz")
    label = write(tmp_path / "c.nii.gz", moved=moved)
    findings, _ = header_faults(RawCase(identifier="c", images=(image,), label=label))
    errors = [finding for finding in findings if finding.severity == "error"]
    pair = Pair(case="c", images=(image,), prediction=prediction, reference=label)
    if abs(moved) > 1:
        assert errors
        with pytest.raises(GridError, match=r"c\.nii\.gz lies .* voxels away .*copy_header"):
            read_pair(pair)
    else:
        assert not errors
        assert [array.shape for array in read_pair(pair)[:2]] == [(4, 6, 8)] * 2


@pytest.mark.parametrize("with_image", [True, False])
def test_a_prediction_lies_on_the_grid_of_its_image(tmp_path: Path, *, with_image: bool) -> None:
    label, image = write(tmp_path / "c.nii.gz"), write(tmp_path / "c_0000.nii.gz")
    files = {"case": "c", "reference": label, "images": (image,) if with_image else ()}
    read_pair(Pair(prediction=write(tmp_path / "near.nii.gz", moved=0.05), **files))
    with pytest.raises(GridError, match=r"far\.nii\.gz does not lie on the grid of .*0\.30 voxels away.*copy_header"):
        read_pair(Pair(prediction=write(tmp_path / "far.nii.gz", moved=0.3), **files))
    with pytest.raises(GridError, match=r"its shape is \(4, 6, 7\), expected \(4, 6, 8\)"):
        read_pair(Pair(prediction=write(tmp_path / "small.nii.gz", size=(4, 6, 7)), **files))
