"""Images that are turned against those of the training, or whose header is of two minds, are predicted and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from tests.inference.small import make_plan, save_checkpoint, write_image
from umamba.inference.predictor import Predictor

MIRRORED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan())
    content = torch.load(path, weights_only=True)
    torch.save(content | {"cases": {"trained_on": {}, "validated_with": [], "orientations": ["LPS"]}}, path)
    return path


def turned_images(folder: Path) -> Path:
    """Two that lie as in the training, one that is turned."""
    for seed, name in enumerate("abc"):
        path = write_image(folder / f"{name}_0000.nii.gz", seed=seed)
        if name == "b":
            image = sitk.ReadImage(path)
            image.SetDirection(MIRRORED)
            sitk.WriteImage(image, path)
    return folder


def test_turned_images_are_named_in_one_line(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, images = Predictor.from_checkpoint(checkpoint, "cpu"), turned_images(tmp_path / "images")
    assert len(predictor.segment_files(images, tmp_path / "out")) == 3
    (line,) = [record.getMessage() for record in caplog.records if "stored" in record.getMessage()]
    assert line.startswith("1 case(s) have axes that point elsewhere") and "b_0000.nii.gz is stored RAS" in line
    assert "images of the training were LPS" in line


def test_an_image_in_memory_is_named_an_array_says_nothing(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, images = Predictor.from_checkpoint(checkpoint, "cpu"), turned_images(tmp_path / "images")
    image = sitk.ReadImage(images / "b_0000.nii.gz")
    predictor.segment(sitk.ReadImage(images / "a_0000.nii.gz"))
    predictor.segment(sitk.GetArrayFromImage(image), (1.0, 1.0, 1.0))
    assert "stored" not in caplog.text
    predictor.segment(image)
    assert "The image is stored RAS" in caplog.text


def test_checkpoints_that_do_not_know_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan()), "cpu")
    predictor.segment_files(turned_images(tmp_path / "images"), tmp_path / "out")
    assert "stored" not in caplog.text


def test_a_header_with_two_voxel_sizes_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By pixdim, which is used, and by sform."""
    path = write_image(tmp_path / "images" / "a_0000.nii")
    content = bytearray(path.read_bytes())
    content[80:84] = torch.tensor([3.0]).numpy().tobytes()  # pixdim[1]
    path.write_bytes(content)
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan()), "cpu")
    predictor.segment_files(tmp_path / "images", tmp_path / "out", file_ending=".nii")
    assert "1 case(s) have a header that leaves the size of a voxel in doubt" in caplog.text
    assert "by pixdim" in caplog.text
