"""Two predictions at once in one folder: nobody could tell afterwards which label map is whose."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import warm_start
from tests.composed import composed
from tests.inference.small import make_plan, save_checkpoint, write_image
from umamba.inference import __main__ as script
from umamba.inference import many_cases
from umamba.inference.claim import PredictionInUseError, claimed
from umamba.inference.predictor import Predictor

HOLD = """
import sys, time
from pathlib import Path
from umamba.inference.claim import claimed

with claimed(Path(sys.argv[1]), sys.argv[2], {"networks": ["of another process"]}):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate("abcd"):
        write_image(tmp_path / "images" / f"{name}_0000.nii.gz", seed=number)
    return tmp_path / "images"


def predictor(folder: Path, seed: int = 0) -> Predictor:
    return Predictor.from_checkpoint(save_checkpoint(folder / f"{seed}.ckpt", make_plan(), seed=seed), "cpu")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def test_a_fast_network_does_not_overtake_a_slow_one(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast, alone = predictor(tmp_path, 0), predictor(tmp_path, 1), tmp_path / "alone"
    slow.segment_files(images, alone)
    reached, go_on, write = threading.Event(), threading.Event(), many_cases.write_label

    def wait(*arguments) -> None:
        reached.set()
        assert go_on.wait(60)
        write(*arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(many_cases, "write_label", wait)
        thread = threading.Thread(target=slow.segment_files, args=(images, out))
        thread.start()
        try:
            assert reached.wait(60)
            before = content(out)
            for options in ({}, {"resume": True}, {"part": (1, 2)}):
                with pytest.raises(PredictionInUseError, match=r"in use by a prediction.*networks.*process \d+ on"):
                    fast.segment_files(images, out, **options)
            with pytest.raises(PredictionInUseError, match="the same prediction"):
                slow.segment_files(images, out, keep=["probabilities"])
            assert content(out) == before
        finally:
            go_on.set()
            thread.join()
    labels = {name: data for name, data in content(out).items() if name.endswith(".nii.gz")}
    assert labels == {name: data for name, data in content(alone).items() if name.endswith(".nii.gz")}
    assert sorted(path.name for path in out.iterdir()) == [*sorted(labels), "inference.json"]
    fast.segment_files(images, out)  # one after the other, as before


def test_parts_of_one_prediction_share_a_folder(images: Path, tmp_path: Path) -> None:
    one, out = predictor(tmp_path), tmp_path / "out"
    out.mkdir()
    with claimed(out, "inference_0_of_2.json", one.made_by()):
        one.segment_files(images, out, part=(1, 2))
        with pytest.raises(PredictionInUseError, match="the same prediction"):
            one.segment_files(images, out, part=(0, 2))
    assert sorted(path.name for path in out.iterdir()) == ["b.nii.gz", "d.nii.gz", "inference_1_of_2.json"]


@pytest.mark.parametrize("record", ["inference.json", "inference_1_of_3.json"])
def test_another_process_is_named_and_a_killed_one_is_in_nobodys_way(
    images: Path, tmp_path: Path, record: str, capfd: pytest.CaptureFixture[str]
) -> None:
    predictor(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, out, record], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        call = [f"checkpoint={tmp_path / '0.ckpt'}", f"input={images}", f"output={out}", "device=cpu"]
        refused = warm_start.run("predict.py", *call, cwd=tmp_path)
        said = refused.stdout + refused.stderr
        assert refused.returncode == 1 and f"process {holder.pid} on" in said and "Traceback" not in said
        assert "Nothing was written" in said and not content(out)
    finally:
        holder.kill()
        holder.wait()
    assert list(out.glob(".predicting-*"))  # it had no time to clear up
    cfg = composed("predict", call)
    script.load(cfg).segment_files(images, out)
    assert not list(out.glob(".*"))
    assert sorted(json.loads((out / "inference.json").read_text())["images"]) == list("abcd")
