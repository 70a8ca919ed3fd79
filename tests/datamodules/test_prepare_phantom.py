"""The phantom: deterministic, every organ in every case, real geometry, and never half-made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.datamodules.prepare import __main__ as cli
from umamba.datamodules.prepare import phantom
from umamba.datamodules.prepare.raw_layout import build_dataset


def test_a_volume_follows_from_seed_and_case() -> None:
    image, label, spacing = phantom.make_volume(1, 3)
    again = phantom.make_volume(1, 3)
    for first, second in zip((image, label, spacing), again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(image, phantom.make_volume(1, 4)[0])
    assert not np.array_equal(image, phantom.make_volume(2, 3)[0])


@pytest.mark.parametrize("case", range(0, 16, 5))
def test_every_organ_is_there_with_its_contrast(case: int) -> None:
    image, label, spacing = phantom.make_volume(20240109, case)
    assert image.dtype == np.int16 and label.dtype == np.uint8
    assert spacing[0] > spacing[1] == spacing[2]  # anisotropic, square pixels
    assert set(np.unique(label)) == set(range(len(phantom.ORGANS) + 1))
    means = {organ: image[label == value].mean() for value, organ in enumerate(phantom.ORGANS, start=1)}
    assert means["gallbladder"] < means["liver"] < means["spleen"] < means["aorta"]
    assert image.min() >= -1024 and image.max() <= 3071
    assert image[0, 0, 0] < -900  # air outside the body


def test_prepare_writes_the_raw_layout_with_geometry_and_licence(tmp_path: Path) -> None:
    target = phantom.prepare(None, tmp_path / "Dataset900_Phantom", num_training=2, num_test=1)
    dataset = json.loads((target / "dataset.json").read_text())
    assert dataset["numTraining"] == 2
    assert dataset["labels"] == {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "aorta": 4, "gallbladder": 5}
    assert dataset["licence"] == "CC0-1.0"
    assert sorted(path.name for path in (target / "labelsTs").iterdir()) == ["phantom_002.nii.gz"]
    image = sitk.ReadImage(target / "imagesTr" / "phantom_001_0000.nii.gz")
    label = sitk.ReadImage(target / "labelsTr" / "phantom_001.nii.gz")
    expected, _, spacing = phantom.make_volume(20240109, 1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    np.testing.assert_allclose(image.GetSpacing()[::-1], spacing, rtol=1e-6)
    assert image.GetOrigin() == label.GetOrigin() and image.GetDirection() == label.GetDirection()


def test_prepare_is_idempotent_and_leaves_a_finished_set_alone(tmp_path: Path) -> None:
    target = phantom.prepare(None, tmp_path / "set", num_training=1, num_test=1)
    stamps = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    phantom.prepare(None, target, num_training=1, num_test=1)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == stamps


def test_an_interrupted_preparation_is_picked_up_and_never_half_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "set"
    write_volume = phantom.write_volume

    def die_at_two(folder: Path, seed: int, num_training: int, case: int) -> None:
        if case == 2:
            raise KeyboardInterrupt
        write_volume(folder, seed, num_training, case)

    monkeypatch.setattr(phantom, "write_volume", die_at_two)
    with pytest.raises(KeyboardInterrupt):
        phantom.prepare(None, target, num_training=3, num_test=0)
    assert not target.exists()
    first = tmp_path / ".set.partial" / "imagesTr" / "phantom_000_0000.nii.gz"
    made = first.stat().st_mtime_ns
    (first.parent / ".999.phantom_001_0000.nii.gz").write_bytes(b"half")  # of a process that was killed

    monkeypatch.setattr(phantom, "write_volume", write_volume)
    phantom.prepare(None, target, num_training=3, num_test=0)
    assert (target / "imagesTr" / first.name).stat().st_mtime_ns == made  # taken over, not written again
    assert len(list((target / "imagesTr").iterdir())) == 3
    assert not list(target.rglob(".*"))
    assert not first.parents[1].exists()


def test_an_unfinished_attempt_with_another_recipe_is_not_reused(tmp_path: Path) -> None:
    partial = tmp_path / ".set.partial"
    partial.mkdir()
    (partial / ".recipe.json").write_text('{"seed": 1}')
    (partial / "stale.nii.gz").touch()
    build_dataset(tmp_path / "set", lambda folder: {"numTraining": 0}, {"seed": 2})
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["dataset.json"]


def test_a_folder_that_is_no_data_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="holds no dataset.json"):
        phantom.prepare(None, tmp_path / "set")
    assert (tmp_path / "set" / "thesis.txt").exists()


def test_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source=.*generated"):
        phantom.prepare(tmp_path, tmp_path / "set")


def run(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", *overrides])
    cli.main()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    where = (f"paths.root={tmp_path}", f"paths.raw={tmp_path / 'raw'}")
    run(monkeypatch, "data=phantom_cells", "data.num_workers=2", *where)  # in worker processes
    assert "Dataset901_PhantomCells: 20 training cases, 6 test cases (6 with labels)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, "data=phantom", f"source={tmp_path}", *where)
    assert "source=" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, "data=cell", *where)
    error = capsys.readouterr().err
    assert "FileNotFoundError" not in error and "https://zenodo.org/records/10719375" in error and "[" not in error
