"""Scores of a cascade: validation cases by networks of both stages that did not see them, test cases by all."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from tests.cascade.made_cascade import LOW, SECOND, config_of, make_low, save, split_in_two, split_of, two_stages
from tests.miniatures import make_volumes
from umamba.datamodules.custom import CustomDataModule
from umamba.evaluation.identity import training_of
from umamba.evaluation.members import Member
from umamba.evaluation.prepared import RunOptions, prepare
from umamba.evaluation.score_run import predict_and_score
from umamba.files import file_hash, read_json
from umamba.inference.claim import PredictionInUseError, claimed
from umamba.inference.previous_facts import KEY, PreviousFacts, member_of
from umamba.raw.file_identity import fingerprint

VALIDATION = RunOptions(cases="validation", device="cpu", workers=1)


def make_cascade(root: Path, fold: int = 0, training: str = "as it was") -> tuple[Path, CustomDataModule]:
    """A checkpoint of a cascade's fold, untrained, and its data set."""
    raw = make_volumes(root / "Dataset965_Scored", labels=("liver", "tumour"))
    split_in_two(raw)
    labels = {"background": 0, "liver": 1, "tumour": 2}
    plan = dataclasses.replace(two_stages(), dataset_name=raw.name, labels=labels, num_training=5)
    paths = make_low(raw, root / LOW, plan)
    folder = root / SECOND / "fold_0" / "checkpoints"
    images = {name: raw / "imagesTr" / f"{name}_0000.nii.gz" for name in (f"case_{case}" for case in range(5))}
    facts = PreviousFacts(
        configuration=LOW, training=training, mirror=False,
        members=tuple(
            member_of(one, path, file_hash(path), split_of(raw, one)["val"], folder) for one, path in paths.items()
        ),
        trained_on={name: fingerprint(path) for name, path in images.items()},
    )  # fmt: skip
    split = split_of(raw, fold)
    cases = {
        "trained_on": {name: fingerprint(images[name]) for name in split["train"]}, "validated_with": split["val"],
    }  # fmt: skip
    config = config_of(raw, fold, SECOND)
    checkpoint = save(folder / "last.ckpt", plan, SECOND, config=config, cases=cases, **{KEY: facts.to_plain()})
    datamodule = CustomDataModule(dataset_dir=raw, prepared_dir=root / "prepared", fold=fold, configuration=SECOND)
    datamodule.open_raw()
    return checkpoint, datamodule


def test_validation_cases_are_new_to_both_stages(tmp_path) -> None:
    checkpoint, datamodule = make_cascade(tmp_path)
    scores, _ = predict_and_score([checkpoint], datamodule, tmp_path / "scores", options=VALIDATION)
    assert sorted(scores["case"].unique()) == ["case_3", "case_4"]
    made_by = read_json(tmp_path / "scores" / "predictions" / "inference.json")["made_by"]
    assert made_by[KEY]["out_of_fold"] is True
    record = read_json(tmp_path / "scores" / "tables" / "run.json")
    assert record["members"][0]["training"][KEY] == "as it was" and record["cost"]["gflops"] > 0
    for other in ("networks of another call", made_by["networks"]):  # which predicts, or scores, there
        in_use = claimed(tmp_path / "scores" / "predictions", "scores", {**made_by, "networks": other})
        with in_use, pytest.raises(PredictionInUseError, match="in use by"):
            predict_and_score([checkpoint], datamodule, tmp_path / "scores", options=VALIDATION)
    assert read_json(tmp_path / "scores" / "tables" / "run.json") == record  # refused before it was removed


def test_a_case_that_the_whole_first_stage_has_seen_is_not_scored(tmp_path) -> None:
    checkpoint, datamodule = make_cascade(tmp_path)
    member = Member.read(checkpoint)
    facts = dataclasses.replace(member.previous, members=member.previous.members[1:])  # fold 0 held these cases out
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, KEY: facts.to_plain()}, checkpoint)
    with pytest.raises(ValueError, match="No network of the previous stage has held out case_3, case_4"):
        prepare([checkpoint], datamodule, tmp_path / "scores", VALIDATION)


def test_a_test_case_that_the_first_stage_has_seen_is_not_scored(tmp_path) -> None:
    """The second stage did not see case_3, its first one did: all of its folds predict a test case."""
    checkpoint, datamodule = make_cascade(tmp_path)
    raw = datamodule.dataset_dir
    for kind in ("images", "labels"):
        (raw / f"{kind}Ts").mkdir()
    shutil.copy(raw / "imagesTr" / "case_3_0000.nii.gz", raw / "imagesTs" / "new_0000.nii.gz")
    shutil.copy(raw / "labelsTr" / "case_3.nii.gz", raw / "labelsTs" / "new.nii.gz")
    datamodule.open_raw()
    options = RunOptions(device="cpu", workers=1)
    with pytest.raises(ValueError, match="was trained on 1 of the cases to be scored: new"):
        prepare([checkpoint], datamodule, tmp_path / "scores", options)
    made = make_volumes(tmp_path / "other", labels=("liver", "tumour"), cases=7)
    shutil.copy(made / "imagesTr" / "case_6_0000.nii.gz", raw / "imagesTs" / "new_0000.nii.gz")
    datamodule.open_raw()
    prepared = prepare([checkpoint], datamodule, tmp_path / "scores", options)
    assert prepared.scored == "test" and prepared.predictor.previous.out_of_fold is False


def test_how_the_first_stage_was_trained_tells_networks_apart(tmp_path) -> None:
    one, other = (Member.read(make_cascade(tmp_path / name, training=name)[0]) for name in ("long", "short"))
    assert training_of(one) | {KEY: ""} == training_of(other) | {KEY: ""}
    assert (training_of(one)[KEY], training_of(other)[KEY]) == ("long", "short")
