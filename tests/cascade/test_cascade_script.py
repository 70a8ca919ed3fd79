"""A cascade as a user calls it: both stages by one command, interrupted, gone on with, predicted with; and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cascade.made_cascade import split_in_two
from tests.miniatures import TINY, make_pictures, make_volumes, run
from umamba.locations import ROOT

LARGE, SMALL, FLAT = "Dataset970_Large", "Dataset971_Small", "Dataset972_Flat"
COMMON = ["data=custom", "model=nnunet", "callbacks.progress=null", *TINY]
COMMAND = [
    *COMMON, f"data.dataset_dir=data/raw/{LARGE}", "cross_validation.folds=[0,1]", "data.planning.memory_gb=0.004",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder with one data set that has a cascade, and two that have none."""
    folder = tmp_path_factory.mktemp("user") / "my cascade (1)"
    raw = folder / "data" / "raw"
    make_volumes(raw / LARGE, labels=("liver", "tumour"), shape=(40, 48, 56))
    split_in_two(raw / LARGE)
    make_volumes(raw / SMALL, labels=("liver", "tumour"))
    make_pictures(raw / FLAT)
    return folder


def refused(folder: Path, *overrides: str, config: str = "cascade") -> str:
    """What a call says that trains nothing."""
    said = run("train.py", f"--config-name={config}", *COMMON, *overrides, "run_dir=refused", folder=folder, ok=False)
    assert "Traceback" not in said
    assert not list((folder / "refused").rglob("fold_*"))
    return " ".join(said.split())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"data.dataset_dir=data/raw/{SMALL}"], "no configuration '3d_cascade_fullres'; it has 2d, 3d_fullres. A low"),
        ([f"data.dataset_dir=data/raw/{FLAT}"], "A cascade is of volumes, and the images of this data set are single"),
        (["data.configuration=3d_lowres", f"data.dataset_dir=data/raw/{SMALL}"], "trains both stages: cascade.config"),
        (["previous_stage=here", f"data.dataset_dir=data/raw/{SMALL}"], "which trains both stages: it is the first"),
        ([f"data.dataset_dir=data/raw/{SMALL}", "cascade.configuration=3d_fullres"], "3d_fullres is no second stage"),
    ],
)  # fmt: skip
def test_what_makes_no_cascade_is_refused_before_anything_is_trained(folder, overrides, message) -> None:
    assert message in refused(folder, *overrides)


def test_a_second_stage_alone_is_refused_before_anything_is_read(folder) -> None:
    said = refused(folder, "data.configuration=3d_cascade_fullres", "data.dataset_dir=absent", config="train")
    assert "second stage of a cascade" in said and "--config-name=cascade" in said


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_interrupted_gone_on_with_and_predicted_with(folder: Path) -> None:
    call = ["--config-name=cascade", *COMMAND, "run_dir=casc"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UMAMBA_ROOT": str(folder)}
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *call], cwd=folder, env=environment)
    low, second = folder / "casc" / "3d_lowres", folder / "casc" / "3d_cascade_fullres"
    last = second / "fold_0" / "checkpoints" / "last.ckpt"
    end = time.monotonic() + 600
    while not last.is_file():  # of the first fold of the second stage
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert (low / "ensemble.json").is_file() and not (second / "ensemble.json").exists()
    first = {path: path.stat().st_mtime_ns for path in low.rglob("last.ckpt")}
    prepared = folder / "data" / "prepared" / LARGE
    maps = {path: path.stat().st_mtime_ns for path in prepared.glob("3d_fullres-previous-*/*.b2nd")}
    assert len(first) == 2 and len(maps) == 5

    run("train.py", *call, folder=folder, seconds=900)  # four trainings
    assert first == {path: path.stat().st_mtime_ns for path in low.rglob("last.ckpt")}
    assert maps == {path: path.stat().st_mtime_ns for path in prepared.glob("3d_fullres-previous-*/*.b2nd")}
    content = torch.load(last, weights_only=True)
    assert content["configuration"] == "3d_cascade_fullres" and content["global_step"] == 4
    assert not {"cascade", "cross_validation"} & content["config"].keys()
    held_out = {one["fold"]: one["held_out"] for one in content["previous_stage"]["members"]}
    assert held_out == {0: ["case_3", "case_4"], 1: ["case_0", "case_1", "case_2"]}
    ensemble = json.loads((second / "ensemble.json").read_text())
    assert [fold["fold"] for fold in ensemble["folds"]] == [0, 1]
    for fold in (0, 1):  # scored with what did not see the cases
        record = json.loads((second / "out_of_fold" / f"fold_{fold}" / "inference.json").read_text())
        assert record["made_by"]["previous_stage"]["out_of_fold"] is True

    run("predict.py", "checkpoint=casc/3d_cascade_fullres", f"input=data/raw/{LARGE}/imagesTr", "output=out",
        folder=folder)  # fmt: skip
    assert len(list((folder / "out").glob("*.nii.gz"))) == 5
    record = json.loads((folder / "out" / "inference.json").read_text())["made_by"]
    assert len(record["networks"]) == len(record["previous_stage"]["networks"]) == 2
    assert record["previous_stage"]["out_of_fold"] is False

    scored = run("eval.py", f"ckpt_path={last.relative_to(folder)}", "cases=validation", "output=scores", folder=folder)
    assert "3d_lowres before it" in scored
    output = run("train.py", f"run_dir={last.parent.parent.relative_to(folder)}", "previous_stage=absent",
                 "trainer.max_epochs=3", folder=folder, ok=False)  # fmt: skip
    assert "previous_stage=absent: there is no such folder" in " ".join(output.split())
