"""The whole way as a user goes it: train.py on generated data, then eval.py and predict.py on its checkpoint."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from miniatures import run

TINY = [
    "trainer=cpu", "trainer.max_epochs=2", "data.iterations_per_epoch=4", "data.val_iterations=2", "data.num_workers=2",
    "data.planning.base_features=4", "data.patch_size=[16,32,32]", "trainer.check_val_every_n_epoch=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """Folder of a run of two short epochs, made from nothing: raw data, plan and store included."""
    run("train.py", "experiment=demo", *TINY, f"run_dir={folder / 'run'}", folder=folder)
    return folder / "run"


def test_a_run_leaves_what_a_researcher_needs(trained: Path) -> None:
    for name in (
        "config.yaml",
        "overrides.txt",
        "provenance.json",
        "metrics.csv",
        "cost.json",
        "predictions/inference.json",
    ):
        assert (trained / name).is_file(), name
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "progress.png", "preview.png"):
        assert (trained / name).stat().st_size > 1000, name
    assert len(json.loads((trained / "cost.json").read_text())["epoch_seconds"]) == 2
    metrics = pd.read_csv(trained / "metrics.csv")
    assert metrics["train/loss"].count() == 2 and metrics["val/dice_liver"].count() == 2


def test_it_says_what_it_does_and_how_to_go_on(trained: Path) -> None:
    said = (trained / "train.log").read_text()
    for part in ("Device: cpu", "Plan: 3d_fullres, patch", "Folder: run", "Epoch 1/2: loss", "Epoch 2/2: loss", "* ["):
        assert part in said, part
    assert "gallbladder  " in said and "Mean ± SD over cases" in said
    for command in ("predict.py checkpoint=run/", "eval.py ckpt_path=run/", "train.py run_dir=run "):
        assert command in said.partition("The results are in")[2], command


def test_a_plain_run_warns_of_nothing(folder: Path, trained: Path) -> None:
    line = ["train.py", "experiment=demo", *TINY, "trainer.max_epochs=1", "test=false", f"run_dir={folder / 'quiet'}"]
    output = run(*line, folder=folder)
    assert not re.search(r"(?i)warn|deprecat|\.py:\d+|tip:", output), output
    assert output.count("Epoch 1/1: loss") == 1 and "\x1b" not in output and "━" not in output


def test_the_checkpoint_is_plain_data_and_complete(trained: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["config"]["data"]["planning"]["base_features"] == 4
    assert checkpoint["plan"]["configurations"]["3d_fullres"]["features_per_stage"][0] == 4
    assert checkpoint["provenance"]["overrides"][0] == "experiment=demo"


def test_predictions_lie_on_the_grid_of_the_images(trained: Path, folder: Path) -> None:
    raw = folder / "data" / "raw" / "Dataset900_Phantom"
    predictions = sorted((trained / "predictions").glob("*.nii.gz"))
    assert [p.name for p in predictions] == [p.name for p in sorted((raw / "labelsTs").glob("*.nii.gz"))]
    for path in predictions:
        image = sitk.ReadImage(str(raw / "imagesTs" / path.name.replace(".nii.gz", "_0000.nii.gz")))
        label = sitk.ReadImage(str(path))
        assert label.GetSize() == image.GetSize()
        for ours, theirs in zip(
            (label.GetSpacing(), label.GetOrigin(), label.GetDirection()),
            (image.GetSpacing(), image.GetOrigin(), image.GetDirection()),
            strict=True,
        ):
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_eval_gives_the_numbers_of_the_run_again(trained: Path, folder: Path) -> None:
    run("eval.py", f"ckpt_path={trained / 'checkpoints' / 'last.ckpt'}", f"output={folder / 'eval'}", folder=folder)
    first = next((trained / "tables").glob("*per_case*.csv"))
    again = next((folder / "eval").rglob(first.name))
    pd.testing.assert_frame_equal(pd.read_csv(first), pd.read_csv(again), check_exact=False, rtol=1e-6)


def test_predict_needs_only_checkpoint_and_images(trained: Path, folder: Path) -> None:
    images = folder / "data" / "raw" / "Dataset900_Phantom" / "imagesTs"
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}"
    run("predict.py", checkpoint, f"input={images}", f"output={folder / 'out'}", folder=folder)
    for path in sorted((trained / "predictions").glob("*.nii.gz")):
        ours, theirs = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (folder / "out" / path.name, path))
        np.testing.assert_array_equal(ours, theirs)


def test_a_killed_run_goes_on_where_it_was(trained: Path, folder: Path) -> None:
    output = run(
        "train.py", "experiment=demo", *TINY, "trainer.max_epochs=3", "test=false", f"run_dir={trained}", folder=folder
    )
    assert "Resuming from" in output
    assert torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3 * 4
    assert len(json.loads((trained / "cost.json").read_text())["epoch_seconds"]) == 3


def test_a_sweep_runs_every_job_in_its_own_folder_and_tells_of_one_that_fails(folder: Path, trained: Path) -> None:
    said = run(
        "train.py", "--multirun", "experiment=demo", *TINY, "debug=default", "test=false", "fold=0,7",
        folder=folder, ok=False,
    )  # fmt: skip
    assert "fold-0 is done." in said and "fold-7 failed: fold must be" in said.replace("\n", " "), said
    assert "Error executing" not in said and "HYDRA_FULL_ERROR" not in said and "Traceback" not in said, said
    (sweep,) = (folder / "logs" / "sweeps").glob("*")
    assert sorted(path.name for path in sweep.iterdir()) == ["fold-0", "jobs", "multirun.yaml"]
    assert torch.load(sweep / "fold-0" / "checkpoints" / "last.ckpt", weights_only=True)["config"]["fold"] == 0


def test_a_wrong_key_is_refused_before_any_work(folder: Path) -> None:
    output = run("train.py", "experiment=demo", "data.iteration_per_epoch=4", folder=folder, ok=False)
    assert "iteration_per_epoch" in output


def test_images_with_another_number_of_channels_are_refused(trained: Path, folder: Path, tmp_path: Path) -> None:
    image = next((folder / "data" / "raw" / "Dataset900_Phantom" / "imagesTs").glob("*_0000.nii.gz"))
    (tmp_path / "images").mkdir()
    for channel in range(2):
        (tmp_path / "images" / f"case_{channel:04d}.nii.gz").write_bytes(image.read_bytes())
    output = run(
        "predict.py", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}", f"input={tmp_path / 'images'}",
        f"output={tmp_path / 'out'}", folder=folder, ok=False,
    )  # fmt: skip
    assert "case case has 2 file(s), the network needs 1 channels" in output


@pytest.mark.slow
def test_two_processes_share_a_batch(folder: Path, trained: Path) -> None:
    output = run(
        "train.py", "experiment=demo", *TINY, "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1",
        f"run_dir={folder / 'ddp'}", folder=folder,
    )  # fmt: skip
    checkpoint = torch.load(folder / "ddp" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4, output[-3000:]
    assert (folder / "ddp" / "tables" / "summary.csv").is_file()
