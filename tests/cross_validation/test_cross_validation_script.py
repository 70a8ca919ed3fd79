"""A cross-validation as a user calls it: trained, interrupted, gone on with, predicted with; and what it refuses."""

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

from tests.miniatures import TINY, make_volumes, run
from umamba.locations import ROOT

COMMAND = ["--config-name=cross_validation", "data=custom", "data.dataset_dir=data/raw/Dataset950_Small",
           "model=nnunet", "callbacks.progress=null", *TINY]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("user") / "my folds (1)"
    make_volumes(folder / "data" / "raw" / "Dataset950_Small", labels=("liver", "tumour"))
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fold=all"], "fold=all is given to a cross-validation"),
        (["data.fold=2"], "data.fold=2 is given to a cross-validation"),
        (["cross_validation.folds=all"], "Fold all holds no case out"),
        (["cross_validation.folds=[1,1]"], "expected two or more different folds"),
        (["data.planning.preset=M"], "planning.preset = 'M': expected one of default, resenc_m, resenc_l, resenc_xl"),
        (["cross_validation.per_gpu=0"], "cross_validation.per_gpu is 0"),
        (["loss.class_weights=[1,2]"], "loss.class_weights has 2 numbers, [1, 2]; expected 3"),
        (["trainer.devices=2", "cross_validation.gpus=[0]"], "trainer.devices=2 gives each fold several GPUs"),
    ],
)  # fmt: skip
def test_what_makes_no_cross_validation_is_refused_before_anything_is_trained(folder, overrides, message) -> None:
    output = run("train.py", *COMMAND, *overrides, "run_dir=refused", folder=folder, ok=False)
    assert message in output and "Traceback" not in output
    assert not list((folder / "refused").glob("fold_*")) and "Fold 0" not in output


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_interrupted_gone_on_with_and_predicted_with(folder: Path) -> None:
    call = [*COMMAND, "cross_validation.folds=[0,3]", "run_dir=cv"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UMAMBA_ROOT": str(folder)}
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *call], cwd=folder, env=environment)
    last, end = (
        [folder / "cv" / f"fold_{fold}" / "checkpoints" / "last.ckpt" for fold in (0, 3)],
        time.monotonic() + 240,
    )
    while not last[0].is_file():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert not last[1].is_file() and not (folder / "cv" / "ensemble.json").exists()
    output = run("predict.py", "checkpoint=cv", "input=data/raw/Dataset950_Small/imagesTr", "output=out", folder=folder,
                 ok=False)  # fmt: skip
    assert "cv holds no ensemble.json" in output and "it has checkpoints of fold_0" in output

    run("train.py", *call, folder=folder)
    assert [torch.load(path, weights_only=True)["global_step"] for path in last] == [4, 4]
    stored = torch.load(last[1], weights_only=True)["config"]
    assert stored["fold"] == 3 and "cross_validation" not in stored
    content = json.loads((folder / "cv" / "ensemble.json").read_text())
    assert [fold["fold"] for fold in content["folds"]] == [0, 3]
    assert "'checkpoint='" in content["predict"]  # quoted for the shell and for Hydra
    run("predict.py", "checkpoint=cv", "input=data/raw/Dataset950_Small/imagesTr", "output=out", folder=folder)
    assert len(list((folder / "out").glob("*.nii.gz"))) == 5

    times = [path.stat().st_mtime for path in last]
    assert "holds scores and ensemble of these very checkpoints already" in run("train.py", *call, folder=folder)
    assert [path.stat().st_mtime for path in last] == times
    more = [*COMMAND, "cross_validation.folds=[0,1,3]", "run_dir=cv", "data.oversample=0.5"]
    output = run("train.py", *more, folder=folder, ok=False)
    assert "fold_0 was trained with other settings" in output and "data.oversample: " in output
    assert not (folder / "cv" / "fold_1").exists() and "Traceback" not in output
