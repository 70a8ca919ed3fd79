"""A folder of nnU-Net's trainings predicts as its converted checkpoints do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import warm_start
from tests.models.test_import_weights import trained  # noqa: F401, a fixture
from umamba.inference.predictor import Predictor
from umamba.models.import_weights import import_checkpoint
from umamba.raw.pictures import write_picture
from umamba.raw.readers import read_label


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two folds, the second one with other weights."""
    source = request.getfixturevalue("trained")
    folder = tmp_path / "results" / "nnUNetTrainerUMambaBot__nnUNetPlans__2d"
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        content = torch.load(source / "checkpoint_final.pth", weights_only=False)
        if fold:
            content["network_weights"] = {k: 1.1 * v for k, v in content["network_weights"].items()}
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    for name in ("plans.json", "dataset.json"):
        shutil.copy(source / name, folder / name)
    return folder


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8), path)
    return path


def test_its_folds_are_averaged_as_converted_checkpoints_are(folder: Path, tmp_path: Path) -> None:
    checkpoints = []
    for fold in (0, 1):
        files = {"plans": folder / "plans.json", "dataset_json": folder / "dataset.json"}
        files |= {"checkpoint": folder / f"fold_{fold}" / "checkpoint_final.pth", "output": tmp_path / f"{fold}.ckpt"}
        checkpoints.append(import_checkpoint(**files))
    before = sorted(folder.rglob("*"))
    image = np.random.default_rng(1).uniform(0, 255, (3, 40, 50)).astype(np.float32)
    one = [Predictor.from_model_folder(folder, [fold], device="cpu") for fold in (0, 1)]
    both = Predictor.from_model_folder(folder, device="cpu", mirror=True)
    assert [member.mirror_axes for member in both.members] == [(0, 1), (0, 1)]
    for predictor, files in [(one[0], checkpoints[0]), (one[1], checkpoints[1])]:
        expected = Predictor.from_checkpoint(files, "cpu")
        assert np.array_equal(predictor.segment(image, (1, 1)), expected.segment(image, (1, 1)))
        assert predictor.members[0].made_by() == expected.members[0].made_by()
    assert one[0].members[0].made_by() != one[1].members[0].made_by()
    expected = Predictor.from_checkpoint(checkpoints, "cpu", mirror=True)
    assert np.array_equal(both.segment(image, (1, 1)), expected.segment(image, (1, 1)))
    assert sorted(folder.rglob("*")) == before


def knowing_its_training(folder: Path) -> None:
    """As nnU-Net writes them: each checkpoint holds the plans and the dataset.json of its training."""
    pair = {key: json.loads((folder / name).read_text()) for key, name in FILES.items()}
    for path in folder.glob("fold_*/*.pth"):
        content = torch.load(path, weights_only=False)
        content["init_args"] |= pair
        torch.save(content, path)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


FILES = {"plans": "plans.json", "dataset_json": "dataset.json"}
SPACING = {"spacing": [2.0, 2.0]}
OTHERS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "spacing": (
        "plans", lambda c: c["configurations"]["2d"].update(SPACING),
        r"spacing of 2d is \(2\.0, 2\.0\) there, \(1\.0, 1\.0\) in the training",
    ),
    "patch": ("plans", lambda c: c["configurations"]["2d"].update(patch_size=[32, 32]), "patch_size of 2d is"),
    "intensities": ("plans", lambda c: c["foreground_intensity_properties_per_channel"]["1"].update(std=9.0),
                    "intensities is"),
    "numbers of classes": ("dataset_json", lambda c: c["labels"].update(interior=2, boundary=1), "labels is"),
    "order of channels": ("dataset_json", lambda c: c.update(channel_names={"0": "B", "1": "G", "2": "R"}),
                          "channel_names is"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_files_of_another_training_are_refused(folder: Path, what: str) -> None:
    knowing_its_training(folder)
    file, change, message = OTHERS[what]
    edit(folder / FILES[file], change)
    with pytest.raises(ValueError, match=rf"fold_0.* was trained with another plan or data set.*{message}"):
        Predictor.from_model_folder(folder, device="cpu")


def test_what_changes_no_prediction_may_differ(folder: Path) -> None:
    knowing_its_training(folder)
    before = Predictor.from_model_folder(folder, device="cpu").members[0].made_by()
    # The authors' code changes the blocks in the plans at hand, and they are written afterwards.
    edit(
        folder / "plans.json",
        lambda c: c["configurations"]["2d"].update(batch_size=7, n_conv_per_stage_encoder=[1] * 5),
    )
    edit(folder / "dataset.json", lambda c: c.update(numTraining=9, file_ending=".bmp"))
    assert Predictor.from_model_folder(folder, device="cpu").members[0].made_by() == before


def test_a_fold_of_another_configuration_is_refused(folder: Path) -> None:
    large = {"inherits_from": "2d", "data_identifier": "large", **SPACING}
    edit(folder / "plans.json", lambda c: c["configurations"].update({"2d_large": large}))
    other = folder.rename(folder.with_name("nnUNetTrainerUMambaBot__nnUNetPlans__2d_large"))
    with pytest.raises(ValueError, match=r"fold_0.* was trained as 2d, not as 2d_large: it lies in another"):
        Predictor.from_model_folder(other, device="cpu")


def test_no_other_folder_is_taken_for_a_fold(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    two = Predictor.from_model_folder(folder, device="cpu")
    assert "predicting with" not in caplog.text
    for name in ("fold_all", "fold_0_before", "fold_3"):
        shutil.copytree(folder / "fold_1", folder / name)
    (folder / "fold_3" / "checkpoint_final.pth").rename(folder / "fold_3" / "checkpoint_best.pth")
    found = Predictor.from_model_folder(folder, device="cpu")
    assert [one.made_by() for one in found.members] == [one.made_by() for one in two.members]
    assert "predicting with fold_0, fold_1, not with fold_0_before, fold_3, fold_all" in caplog.text
    for fold in (0, 1):
        shutil.rmtree(folder / f"fold_{fold}")
    (alone,) = Predictor.from_model_folder(folder, device="cpu").members
    assert alone.made_by() == two.members[1].made_by()


def test_folds_that_were_trained_on_regions(folder: Path) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (3, 40, 50)).astype(np.float32)
    classes, of_classes = Predictor.from_model_folder(folder, device="cpu").segment(image, (1, 1), probabilities=True)
    content = json.loads((folder / "dataset.json").read_text())
    content |= {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"dataset\.json: labels are lists, so the data set needs regions_class_order"):
        Predictor.from_model_folder(folder, device="cpu")
    (folder / "dataset.json").write_text(json.dumps(content | {"regions_class_order": [1, 2, 3]}))
    predictor = Predictor.from_model_folder(folder, device="cpu")  # three outputs, that are read otherwise now
    label, probabilities = predictor.segment(image, (1, 1), probabilities=True)
    p, q = probabilities.astype(np.float64), of_classes.astype(np.float64)
    odds, log_of_classes = np.log(p / (1 - p)), np.log(q)
    sure = ((p > 0.02) & (p < 0.98) & (q > 0.02)).all(0)  # elsewhere half precision is too coarse
    assert sure.mean() > 0.5
    for k in (1, 2):  # differences of the same logits, by sigmoid here and by softmax there
        differences = [(of[k] - of[0])[sure] for of in (odds, log_of_classes)]
        np.testing.assert_allclose(*differences, atol=0.05)
    written = np.zeros_like(label)
    for value, one in enumerate(probabilities, start=1):
        written[one > 0.5] = value
    assert (written == label).mean() > 0.999 and (label != classes).any()


def test_the_script_takes_it(folder: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "images" / "cell.png")
    line = ["predict.py", "device=cpu", f"input={image.parent}"]
    done = warm_start.run(*line, f"model_folder={folder}", "folds=[0]", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stdout + done.stderr
    expected, _ = Predictor.from_model_folder(folder, [0], device="cpu").predict([image])
    assert np.array_equal(read_label(tmp_path / "out" / "cell.png")[0], expected)
    for wrong, message in [
        ((), "Give either checkpoint=... or model_folder=..."),
        (("checkpoint=a.ckpt", f"model_folder={folder}"), "Give either checkpoint=... or model_folder=..."),
        ((f"model_folder={folder}", "trusted=[torch]"), "trusted=['torch'] would do nothing"),
        (("checkpoint=a.ckpt", "folds=[0]"), "folds=... chooses among those of model_folder"),
    ]:
        done = warm_start.run(*line, f"output={tmp_path / 'none'}", *wrong)
        assert done.returncode == 1 and message in done.stdout + done.stderr
    assert not (tmp_path / "none").exists()


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fold_7.*has checkpoint_final\.pth of fold_0, fold_1"):
        Predictor.from_model_folder(folder, [7], device="cpu")
    with pytest.raises(FileNotFoundError, match=r"no fold with a checkpoint_best\.pth"):
        Predictor.from_model_folder(folder, checkpoint="checkpoint_best.pth", device="cpu")
    with pytest.raises(FileNotFoundError, match=r"folds=\[\]"):
        Predictor.from_model_folder(folder, [], device="cpu")
    with pytest.raises(FileNotFoundError, match=r"lacks plans\.json and dataset\.json.*nnUNetTrainer__nnUNetPlans__3d"):
        Predictor.from_model_folder(tmp_path / "results", device="cpu")
