"""Probabilities as NIfTI on the image's own grid, and the distance of windows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests import warm_start
from tests.inference.small import make_plan, save_checkpoint
from umamba.inference import kept
from umamba.inference.going_on import what_differs
from umamba.inference.kept import parse_probabilities
from umamba.inference.pipeline import CasesFailedError
from umamba.inference.predictor import Predictor
from umamba.inference.sliding_window import check_step
from umamba.raw.pictures import write_picture

TURNED = (0.0, -1.0, 0.0, 0.8, 0.0, -0.6, 0.6, 0.0, 0.8)


def turned_image(path: Path, shape: tuple[int, ...] = (9, 10, 11)) -> sitk.Image:
    """Noise in a place of its own: three different spacings, an origin, a direction that is oblique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.random.default_rng(0).uniform(1, 100, shape).astype(np.float32))
    n = len(shape)
    image.SetSpacing((0.5, 0.75, 2.5)[:n])
    image.SetOrigin((-10.0, 20.0, 30.5)[:n])
    image.SetDirection(TURNED if n == 3 else (0.0, -1.0, 1.0, 0.0))
    sitk.WriteImage(image, path)
    return image


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 12, 9), (12, 9)])
@pytest.mark.parametrize("logits", [False, True])
def test_probabilities_lie_where_the_image_lies(tmp_path: Path, shape: tuple[int, ...], logits: bool) -> None:
    image = turned_image(tmp_path / "images" / "a.nii.gz", shape)
    plan = make_plan(classes=3, patch=(8, 8, 8)[: len(shape)])
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", plan), "cpu")
    keep = ["probabilities", *["logits"] * logits]
    predictor.segment_files(tmp_path / "images", tmp_path / "arrays", keep=keep)
    predictor.segment_files(tmp_path / "images", tmp_path / "out", keep=keep, nifti=True)
    expected = np.load(tmp_path / "arrays" / "a.npz")["probabilities"]
    volume = sitk.ReadImage(tmp_path / "out" / "probabilities" / "a.nii.gz")
    assert volume.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(volume), expected.astype(np.float32))
    for index in [(0,) * len(shape), tuple(range(1, len(shape) + 1)) if min(shape) > 3 else (3, 2, 0)]:
        place = image.TransformIndexToPhysicalPoint(index)
        found = volume.TransformIndexToPhysicalPoint([*index, *[0] * (3 - len(index)), 0])
        np.testing.assert_allclose(found[: len(place)], place, atol=1e-4)
    assert (tmp_path / "out" / "a.npz").exists() == logits
    if logits:
        assert list(np.load(tmp_path / "out" / "a.npz")) == ["logits"]
    made_by = json.loads((tmp_path / "out" / "inference.json").read_text())["made_by"]
    assert made_by["probabilities"] == "nifti"


def test_a_missing_file_of_probabilities_is_written_again(tmp_path: Path) -> None:
    turned_image(tmp_path / "images" / "a.nii.gz")
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan()), "cpu")
    options = {"keep": ["probabilities"], "nifti": True, "resume": True}
    predictor.segment_files(tmp_path / "images", tmp_path / "out", **options)
    written = tmp_path / "out" / "probabilities" / "a.nii.gz"
    before = written.read_bytes()
    written.unlink()
    predictor.segment_files(tmp_path / "images", tmp_path / "out", **options)
    assert written.read_bytes() == before
    with pytest.raises(ValueError, match="it differs in"):
        predictor.segment_files(tmp_path / "images", tmp_path / "out", keep=["probabilities"], resume=True)


def test_what_does_not_fit_into_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned_image(tmp_path / "images" / "a.nii.gz")
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan()), "cpu")

    def no_room(size: int, message: str) -> None:
        raise MemoryError(message)

    monkeypatch.setattr(kept, "require_memory", no_room)
    with pytest.raises(CasesFailedError, match="a: probabilities=nifti: 2 classes in float32 do not fit"):
        predictor.segment_files(tmp_path / "images", tmp_path / "out", keep=["probabilities"], nifti=True)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_full_disk_names_the_file_and_leaves_none(small_disk: Path, tmp_path: Path) -> None:
    turned_image(tmp_path / "images" / "a.nii.gz", (40, 80, 80))
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan(patch=(40, 80, 80))), "cpu")
    with pytest.raises(OSError, match=r"No space left.*probabilities/a\.nii\.gz"):
        predictor.segment_files(tmp_path / "images", small_disk, keep=["probabilities"], nifti=True)
    assert not list(small_disk.rglob("*.nii.gz"))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures_have_no_place_for_a_nifti_file(tmp_path: Path, ending: str) -> None:
    plan = make_plan(patch=(8, 8), ending=ending)
    (tmp_path / "images").mkdir()
    write_picture(np.zeros((9, 9), np.uint8), tmp_path / "images" / f"a{ending}")
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", plan), "cpu")
    with pytest.raises(ValueError, match=rf"images of \{ending} have no place in space.*probabilities=npz"):
        predictor.segment_files(tmp_path / "images", tmp_path / "out", keep=["probabilities"], nifti=True)
    with pytest.raises(ValueError, match="keep has none"):
        predictor.segment_files(tmp_path / "images", tmp_path / "out", nifti=True)
    assert not (tmp_path / "out").exists()
    predictor.segment_files(tmp_path / "images", tmp_path / "out", keep=["probabilities"])
    assert np.load(tmp_path / "out" / "a.npz")["probabilities"].shape == (2, 1, 9, 9)


def test_kinds_of_files() -> None:
    assert [parse_probabilities(value) for value in (False, None, True, "npz", "nifti")] == [
        None, None, "npz", "npz", "nifti",
    ]  # fmt: skip
    for wrong in ("nrrd", 1):
        with pytest.raises(ValueError, match=f"probabilities={wrong}: expected true or false, npz or nifti"):
            parse_probabilities(wrong)


def test_the_distance_of_windows_changes_what_is_computed_and_is_noted(tmp_path: Path) -> None:
    turned_image(tmp_path / "images" / "a.nii.gz", (17, 18, 19))
    checkpoint = save_checkpoint(tmp_path / "a.ckpt", make_plan(classes=3))

    def predicted(output: str, *options: str) -> subprocess.CompletedProcess:
        line = ["predict.py", f"checkpoint={checkpoint}", f"input={tmp_path / 'images'}", f"output={tmp_path / output}"]
        return warm_start.run(*line, "device=cpu", "probabilities=npz", *options)

    done = {"half": predicted("half"), "whole": predicted("whole", "step=1"), "same": predicted("same", "step=0.5")}
    assert [result.returncode for result in done.values()] == [0, 0, 0], done
    arrays = {name: np.load(tmp_path / name / "a.npz")["probabilities"] for name in done}
    assert np.array_equal(arrays["half"], arrays["same"]) and not np.array_equal(arrays["half"], arrays["whole"])
    predictor = Predictor.from_checkpoint(checkpoint, "cpu")
    predictor.step = 1
    (label,) = predictor.segment_files(tmp_path / "images", tmp_path / "again", keep=["probabilities"])
    assert label.read_bytes() == (tmp_path / "whole" / "a.nii.gz").read_bytes()
    records = [json.loads((tmp_path / name / "inference.json").read_text())["made_by"] for name in done]
    assert [record.get("step") for record in records] == [None, 1, None]
    again = predicted("half", "step=1", "continue=true")
    assert again.returncode == 1 and "another prediction" in again.stdout + again.stderr
    refused = predicted("none", "step=half")
    assert refused.returncode == 1 and "step must be in (0, 1], a share of the patch" in refused.stdout + refused.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("step", [0, -0.5, 1.01, float("nan"), True, None])
def test_a_distance_that_leaves_gaps_is_refused(step: object) -> None:
    with pytest.raises(ValueError, match="step must be in"):
        check_step(step)


def test_what_differs_between_two_predictions_is_named_by_its_option() -> None:
    one = {"weights_sha256": "a", "precision": "float32", "mirror_axes": []}
    flipped, halved, other = (
        {**one, "mirror_axes": [0]},
        {**one, "precision": "float16"},
        {**one, "weights_sha256": "b"},
    )
    for then, now, names in [
        ([one], [flipped], ["mirror"]), ([one, one], [one, halved], ["precision"]), ([one], [other], ["networks"]),
        ([one], [{**other, "mirror_axes": [0]}], ["networks"]), ([one], [one, one], ["networks"]),
        ([[one], [one]], [[flipped], [flipped]], ["mirror"]), ([one], ["else"], ["networks"]),
        ([one], None, ["networks"]),
    ]:  # fmt: skip
        assert what_differs({"networks": then, "plan": 1}, {"networks": now, "plan": 1}) == names
        with_stage = [{"previous_stage": {"networks": networks, "plan": 2}} for networks in (then, now)]
        assert what_differs(*with_stage) == (["previous_stage"] if names == ["networks"] else names)
    assert what_differs({"labels": None}, {"step": 0.25, "labels": None}) == what_differs({"step": 1}, {}) == ["step"]
