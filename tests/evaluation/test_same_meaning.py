"""A checkpoint is scored on data that mean the same by their numbers, and by nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.inference.small import make_plan, save_checkpoint
from tests.miniatures import make_volumes
from umamba.evaluation import __main__ as script
from umamba.inference.predictor import Predictor
from umamba.locations import CONFIGS

LABELS = {"background": 0, "class_1": 1, "class_2": 2}


def checkpoint(raw: Path) -> Path:
    """Of two classes and two channels, that knows the data set at `raw`."""
    plan = make_plan(("T1", "T2"), classes=3)
    plan = plan.from_dict({**plan.to_dict(), "num_training": 5})
    data = {
        "_target_": "umamba.datamodules.custom.CustomDataModule", "dataset_dir": str(raw),
        "prepared_dir": str(raw.parent / "prepared"), "fold": 0, "augmentation": None,
    }  # fmt: skip
    return save_checkpoint(raw.parent / "a.ckpt", plan, config={"data": data, "fold": 0, "seed": 0})


def config(output: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("eval", [f"output={output}", "workers=0", "device=cpu", *overrides])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "Dataset950_Small", channels=("T1", "T2"), labels=("class_1", "class_2"))


def other_data(raw: Path, **changes: Any) -> Path:
    """The same files with another dataset.json."""
    other = shutil.copytree(raw, raw.parent / "other")
    content = json.loads((raw / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, **changes}))
    return other


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": {"background": 0, "class_2": 1, "class_1": 2}}, "'class_1': 1.*'class_2': 2.*'class_2': 1"),
        ({"labels": {**LABELS, "class_3": 3}}, "labels.*'class_3': 3"),
        ({"labels": {"background": 0, "class_1": 1, "ignore": 2}}, "labels.*; ignore label None in .*, 2 there"),
        ({"labels": {**LABELS, "ignore": 3}}, "ignore label None in the checkpoint, 3 there"),
        ({"labels": {**LABELS, "whole": [1, 2]}}, r"regions {} in the checkpoint, {'whole': \[1, 2\]} there"),
        ({"channel_names": {"0": "T2", "1": "T1"}}, r"channels \['T1', 'T2'\] .*, \['T2', 'T1'\] there"),
    ],
)
def test_data_of_another_meaning_are_refused(raw: Path, monkeypatch, changes: dict[str, Any], told: str) -> None:
    monkeypatch.setattr(Predictor, "predict_cases", lambda *_, **__: pytest.fail("predicted"))
    path, other, out = checkpoint(raw), other_data(raw, **changes), raw.parent / "out"
    with pytest.raises(ValueError, match=f"(?s)a.ckpt was trained with another meaning .*other.*dataset.json.*{told}"):
        script.score_checkpoints(config(out, f"ckpt_path={path}", f"data.dataset_dir={other}"))
    assert not out.exists()


def test_order_and_case_of_names_are_no_difference(raw: Path) -> None:
    labels = dict(reversed(LABELS.items()))
    other = other_data(raw, labels=labels, channel_names={"0": "t1", "1": "T2"}, name="Moved")
    out = raw.parent / "out"
    script.score_checkpoints(config(out, f"ckpt_path={checkpoint(raw)}", f"data.dataset_dir={other}"))
    assert (out / "tables" / "scores.csv").is_file()
