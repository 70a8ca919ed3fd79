"""The command: on raw data, on nnU-Net's own files, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from omegaconf import DictConfig
from raw_data import make_dataset

from tests import warm_start
from tests.composed import composed
from umamba.planning.__main__ import check_output, make_plan, planner_options
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.summary import memory_estimate

ROOT = Path(__file__).resolve().parents[2]
STATISTICS = Intensities(mean=0, median=0, std=1, min=-3, max=3, percentile_00_5=-2, percentile_99_5=2)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return warm_start.run("-m", "umamba.planning", *arguments, cwd=folder, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def nnunet_files(tmp_path_factory) -> Path:
    """The endoscopy set as nnU-Net would describe it."""
    folder = tmp_path_factory.mktemp("nnunet")
    fingerprint = Fingerprint(
        spacings=((999.0, 1.0, 1.0),) * 3,
        shapes_after_crop=((1, 1080, 1920),) * 3,
        intensities=(STATISTICS,) * 3,
        median_relative_size=1.0,
    )
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, **{f"tool_{i}": i for i in range(1, 8)}},
        "numTraining": 1800,
        "file_ending": ".png",
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint.to_dict()))
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


FILES = ("fingerprint=dataset_fingerprint.json", "dataset_json=dataset.json")


def test_nnunets_own_files(nnunet_files):
    done = run(nnunet_files, *FILES, "output=plans/plan.json")
    assert done.returncode == 0, done.stderr
    plan = Plan.load(nnunet_files / "plans" / "plan.json")
    assert plan.configuration("2d").patch_size == (384, 640)
    for expected in (
        "Plan of",
        "0 ± 1",
        "1x1, 2x2 (6 times)",
        "384 x 640",
        "shrunk until its cost fits 8 GB (rule 2.1)",
        "rule 2.1, preset default, 8 GB",
    ):
        assert expected in done.stdout
    assert {p.name for p in nnunet_files.iterdir()} == {"dataset.json", "dataset_fingerprint.json", "plans"}


def test_errors_end_the_command_without_a_traceback(nnunet_files):
    done = run(nnunet_files, *FILES, "rule=3")
    assert done.returncode == 1
    assert done.stderr.strip() == "planning.rule = '3': expected one of 2.1, 2.8."


@pytest.mark.parametrize("name", ["dataset_fingerprint.json", "dataset.json", "link.json", "image.nii.gz", "."])
def test_the_plan_replaces_nothing_but_a_plan(nnunet_files, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file in ("dataset_fingerprint.json", "dataset.json"):
        shutil.copy(nnunet_files / file, file)
    Path("link.json").symlink_to("dataset.json")
    Path("image.nii.gz").write_bytes(b"\x1f\x8b no plan")
    check_output(config(*FILES, "output=new/plan.json"))
    with pytest.raises(ValueError, match=r"^output=\S+ (would replace|is there and is no plan|is a folder)"):
        check_output(config(*FILES, f"output={name}"))
    plan = make_plan(config(*FILES))
    plan.save("plan.json")
    check_output(config(*FILES, "output=plan.json"))
    with pytest.raises(ValueError, match=r"output=plan\.json would replace plans=plan\.json"):
        check_output(config("plans=plan.json", "dataset_json=dataset.json", "output=plan.json"))


def config(*overrides: str) -> DictConfig:
    return composed("planning", overrides)


def test_rule_preset_and_plans_are_followed(nnunet_files, monkeypatch):
    monkeypatch.chdir(nnunet_files)
    plan = make_plan(config(*FILES, "rule=2.8", "preset=resenc_l"))
    assert (plan.rule, plan.preset, plan.memory_gb) == ("2.8", "resenc_l", 24.0)
    plan.save("given.json")
    assert make_plan(config("plans=given.json", "dataset_json=dataset.json")) == plan


def test_a_raw_data_set(tmp_path):
    make_dataset(tmp_path / "raw", cases=1)
    paths = (f"data.dataset_dir={tmp_path / 'raw'}", f"data.prepared_dir={tmp_path / 'out'}")
    plan = make_plan(config("data=custom", *paths, "base_features=8", "preprocess=[3d_fullres]", "workers=1"))
    assert plan.base_features == 8 and plan == Plan.load(tmp_path / "out" / "plan.json")
    assert len(list((tmp_path / "out").glob("3d_fullres-????????/case_0/case.json"))) == 1


def test_options_of_the_data_config_hold_unless_overridden():
    assert planner_options(config("data=custom", "data.planning.base_features=16", "rule=2.8")) == PlannerOptions(
        base_features=16, rule="2.8"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "Nothing to plan. Give data=<name>"),
        (("fingerprint=x.json",), "Nothing to plan"),
        (
            ("data=custom", "data.dataset_dir=x", "+data.planning.memry_gb=1"),
            r"data.planning has unknown keys \['memry_gb'\]",
        ),
        (("fingerprint=x.json", "dataset_json=dataset.json"), "There is no fingerprint at x.json"),
        (("data=hippocampus", "paths.raw=nowhere", "paths.root=x"), "python -m umamba.datamodules.prepare"),
    ],
)
def test_what_cannot_be_planned_is_said(nnunet_files, monkeypatch, overrides, message):
    monkeypatch.chdir(nnunet_files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_plan(config(*overrides))


def test_memory_follows_cost_and_batch(nnunet_files, monkeypatch):
    monkeypatch.chdir(nnunet_files)
    plan = make_plan(config(*FILES))
    # 78.8 of 85 million at a batch of 13 against the reference's 12: 8 GB * 0.927 * 1.083
    assert memory_estimate(plan, plan.configuration("2d")) == "8.0 GB"
    unknown = dataclasses.replace(plan, memory_gb=None)
    assert memory_estimate(unknown, unknown.configuration("2d")) == "unknown"
