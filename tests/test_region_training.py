"""Region-based training end to end, on four channels with nested tumour regions: raw data to scores and predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from hydra import compose, initialize_config_dir
from miniatures import TINY, make_tumours, run

from umamba import Predictor
from umamba.evaluation.__main__ import score_folders
from umamba.evaluation.report.__main__ import make_report
from umamba.locations import CONFIGS
from umamba.raw.readers import read_images, read_label

REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
OPTIONS = [
    "data=custom", "data.configuration=3d_fullres", *TINY, "data.patch_size=[16,16,16]", "model=nnunet",
    "trainer.max_epochs=3", "data.iterations_per_epoch=15", "data.val_iterations=2", "data.planning.base_features=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set and a run that was trained and tested on it."""
    folder = tmp_path_factory.mktemp("regions")
    dataset = make_tumours(folder / "Dataset901_Tumour")
    run("train.py", *OPTIONS, f"data.dataset_dir={dataset}", f"run_dir={folder / 'run'}", folder=folder)
    return folder


def dice(prediction: np.ndarray, reference: np.ndarray, values: tuple[int, ...]) -> float:
    p, r = np.isin(prediction, values), np.isin(reference, values)
    return 2 * (p & r).sum() / (p.sum() + r.sum())


def last(folder: Path) -> Path:
    return folder / "run" / "checkpoints" / "last.ckpt"


def test_training_learns_the_regions_and_scores_them(trained: Path) -> None:
    metrics = pd.read_csv(trained / "run" / "metrics.csv")
    assert {"val/dice_whole", "val/dice_core", "val/dice_enhancing"} <= {*metrics.columns}
    scores = pd.read_csv(trained / "run" / "tables" / "scores.csv").set_index("class")
    assert [*scores.index] == [*REGIONS] and scores.loc["whole", "dsc"] > 0.8
    (case,) = scores["case"].unique()
    reference, _ = read_label(trained / "Dataset901_Tumour" / "labelsTr" / f"{case}.nii.gz")
    prediction, _ = read_label(trained / "run" / "predictions" / f"{case}.nii.gz")
    for name, values in REGIONS.items():
        assert scores.loc[name, "dsc"] == pytest.approx(dice(prediction, reference, values))
    record = json.loads((trained / "run" / "tables" / "run.json").read_text())
    assert record["regions"] == {name: [*values] for name, values in REGIONS.items()}
    assert [region["name"] for region in record["plan"]["regions"]] == [*REGIONS]
    assert (trained / "run" / "figures" / "overlays.png").is_file()


def test_the_checkpoint_has_an_output_for_each_region(trained: Path) -> None:
    checkpoint = torch.load(last(trained), weights_only=True)
    assert checkpoint["state_dict"]["network.heads.0.weight"].shape[0] == 3
    assert checkpoint["plan"]["labels"] == {"background": 0}
    assert checkpoint["plan"]["regions"][1] == {"name": "core", "labels": [2, 3], "written": 2}


def test_predictions_in_files_and_in_memory_are_one(trained: Path) -> None:
    images, out = trained / "Dataset901_Tumour" / "imagesTr", trained / "out"
    predict = ["predict.py", f"checkpoint={last(trained)}", f"input={images}", f"output={out}"]
    run(*predict, "probabilities=true", "save_logits=true", folder=trained)
    predictor = Predictor.from_checkpoint(last(trained), device="cpu")
    paths = [images / f"case_0_{channel:04d}.nii.gz" for channel in range(4)]
    image, geometry = read_images(paths)
    label, probabilities = predictor.segment(image, geometry.spacing, probabilities=True)
    np.testing.assert_array_equal(label, read_label(out / "case_0.nii.gz")[0])
    with np.load(out / "case_0.npz") as stored:
        np.testing.assert_array_equal(stored["probabilities"], probabilities)
        sigmoid = 1 / (1 + np.exp(-stored["logits"].astype(np.float64)))
    assert probabilities.shape == (3, *label.shape) and probabilities.sum(0).max() > 1.5  # no softmax
    np.testing.assert_allclose(probabilities, sigmoid, atol=2e-3)
    written = np.zeros_like(label)
    for value, one in enumerate(probabilities.astype(np.float32), start=1):
        written[one > 0.5] = value
    sure = (np.abs(probabilities.astype(np.float32) - 0.5) > 1e-3).all(0)
    np.testing.assert_array_equal(written[sure], label[sure])
    references = trained / "one" / "labelsTr"
    references.mkdir(parents=True)
    shutil.copy(trained / "Dataset901_Tumour" / "dataset.json", references.parent)
    for path in out.glob("*.nii.gz"):
        shutil.copy(trained / "Dataset901_Tumour" / "labelsTr" / path.name, references)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        paths = [f"predictions={out}", f"references={references}", f"output={trained / 'stored'}"]
        score_folders(compose("eval", [*paths, "nsd_tolerance=2", "workers=0", "seen_cases=true"]))
    stored, tested = (pd.read_csv(folder / "tables" / "scores.csv") for folder in (trained / "stored", trained / "run"))
    of_test = stored[stored["case"].isin(tested["case"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_test, tested)
    with pytest.raises(ValueError, match="labels is .*'liver'.*; .* regions .* of whole, core, enhancing"):
        predictor.segment_files(images, trained / "none", labels=["liver"])
    predictor.segment_files(images, trained / "core", labels=["core"])
    core = read_label(trained / "core" / "case_0.nii.gz")[0]
    assert {*np.unique(core)} <= {0, 2}
    np.testing.assert_array_equal((core == 2)[sure], (probabilities[1] > 0.5)[sure])


def test_scoring_again_ensembles_and_rules(trained: Path) -> None:
    data = [f"data.dataset_dir={trained / 'Dataset901_Tumour'}", f"output={trained / 'scores'}", "workers=0"]
    best = next((trained / "run" / "checkpoints").glob("best*.ckpt"), None) or last(trained)
    run("eval.py", f"ckpt_path=[{last(trained)}]", "cases=validation", "fit_postprocessing=true", *data, folder=trained)
    first = pd.read_csv(trained / "run" / "tables" / "scores.csv")
    again = pd.read_csv(trained / "scores" / "tables" / "scores.csv")
    pd.testing.assert_frame_equal(first, again)
    rules = json.loads((trained / "scores" / "postprocessing.json").read_text())
    assert all(set(rule["classes"]) <= set(REGIONS) for rule in rules["keep_largest"])
    (trained / "copy.ckpt").write_bytes(best.read_bytes())
    ensemble = [f"ckpt_path=[{last(trained)},{trained / 'copy.ckpt'}]", "ensemble=true", "mirror=true"]
    run("eval.py", *ensemble, *data[:1], f"output={trained / 'ensemble'}", "workers=0", folder=trained)
    table = pd.read_csv(trained / "ensemble" / "tables" / "per_class.csv")
    assert table["run"].nunique() == 6 and set(table["class"]) == {*REGIONS, "all"}
    page = make_report([trained / "run"], trained / "report", title="Regions", cases=1)
    assert "enhancing" in page.read_text(encoding="utf-8")


def test_a_checkpoint_is_not_scored_on_regions_of_another_meaning(trained: Path) -> None:
    other = make_tumours(trained / "Dataset902_Other")
    content = json.loads((other / "dataset.json").read_text())
    content["labels"] = {"background": 0, "all": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    (other / "dataset.json").write_text(json.dumps(content))
    arguments = [f"ckpt_path={last(trained)}", f"data.dataset_dir={other}", f"output={trained / 'no'}"]
    said = " ".join(run("eval.py", *arguments, folder=trained, ok=False).split())
    assert "another meaning" in said and "'all = 1+2+3, written 1'" in said


def test_a_run_does_not_go_on_with_other_regions(trained: Path) -> None:
    dataset = trained / "Dataset901_Tumour"
    before = (dataset / "dataset.json").read_text()
    content = json.loads(before)
    content["labels"] = {"background": 0, "oedema": 1, "necrosis": 2, "enhancing": 3}
    del content["regions_class_order"]
    (dataset / "dataset.json").write_text(json.dumps(content))
    try:
        arguments = [*OPTIONS, "trainer.max_epochs=4", f"data.dataset_dir={dataset}", f"run_dir={trained / 'run'}"]
        said = " ".join(run("train.py", *arguments, folder=trained, ok=False).split())
    finally:
        (dataset / "dataset.json").write_text(before)
    assert "was trained on other data, or with another plan" in said and "plan.regions" in said


def test_wrong_regions_are_said_before_data_are_touched(tmp_path: Path) -> None:
    dataset = make_tumours(tmp_path / "Dataset901_Tumour", cases=1)
    content = json.loads((dataset / "dataset.json").read_text()) | {"regions_class_order": [3, 2, 1]}
    (dataset / "dataset.json").write_text(json.dumps(content))
    (dataset / "imagesTr" / "case_0_0000.nii.gz").write_bytes(b"no image")  # never looked at
    said = run("train.py", *OPTIONS, "fold=all", f"data.dataset_dir={dataset}", folder=tmp_path, ok=False)
    assert "regions_class_order writes 1 for region enhancing" in " ".join(said.split())
    assert not list(tmp_path.rglob("plan.json"))


def test_a_simpleitk_image_comes_back_as_one(trained: Path) -> None:
    images = trained / "Dataset901_Tumour" / "imagesTr"
    channels = [sitk.ReadImage(str(images / f"case_1_{channel:04d}.nii.gz")) for channel in range(4)]
    label, probabilities = Predictor.from_checkpoint(last(trained), device="cpu").segment(channels, probabilities=True)
    assert label.GetSize() == channels[0].GetSize() and probabilities.GetNumberOfComponentsPerPixel() == 3
