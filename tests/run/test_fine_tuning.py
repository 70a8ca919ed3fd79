"""Fine-tuning as a user calls it: the plan of another data set, frozen parts, and going on without the source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.miniatures import TINY, make_volumes, run
from umamba.evaluation.identity import training_of
from umamba.evaluation.members import Member


@pytest.mark.slow
def test_from_one_data_set_to_another(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "raw"
    make_volumes(raw / "Dataset951_Source", labels=("liver", "tumour"))
    make_volumes(raw / "Dataset952_Target", channels=("MR", "T2"), labels=("spleen",), shape=(18, 22, 20))
    call = ["data=custom", "model=nnunet", "callbacks.progress=null", *TINY]
    run("train.py", *call, "data.dataset_dir=data/raw/Dataset951_Source", "fold=0", "run_dir=source", "test=false",
        folder=tmp_path)  # fmt: skip
    plan = tmp_path / "data" / "prepared" / "Dataset951_Source" / "plan.json"
    source = tmp_path / "source" / "checkpoints" / "last.ckpt"
    tuned = [*call, "data.dataset_dir=data/raw/Dataset952_Target", f"data.planning.plans={plan}", "fold=1",
             "test=false", f"init_from={source}", "freeze=[encoder_stages.1*]", "warmup_epochs=1",
             "run_dir=tuned"]  # fmt: skip
    output = run("train.py", *tuned, folder=tmp_path)
    flat = " ".join(output.split())
    assert "The plan is of Dataset951_Source" in flat and "start with random values" in flat and "Frozen: " in flat
    last = tmp_path / "tuned" / "checkpoints" / "last.ckpt"
    then, now = (torch.load(path, weights_only=True) for path in (source, last))
    frozen = [name for name in now["state_dict"] if name.startswith("network.encoder_stages.1.")]
    assert frozen and all(torch.equal(now["state_dict"][name], then["state_dict"][name]) for name in frozen)
    moved = "network.encoder_stages.0.1.conv.weight"
    assert not torch.equal(now["state_dict"][moved], then["state_dict"][moved])
    assert now["plan"]["labels"] == {"background": 0, "spleen": 1} and len(now["plan"]["intensities"]) == 2
    assert set(now["init_from"]["left_out"]) > {"encoder_stages.0.0.conv.weight"}
    seen = {name for name in now["cases"]["trained_on"] if name.startswith("init_from/")}
    assert seen == {f"init_from/{name}" for name in then["cases"]["trained_on"]}
    training = training_of(Member.read(last))
    assert training["init_from"] == now["init_from"]["hash"] and training["freeze"] == ["encoder_stages.1*"]

    whole = [word if not word.startswith("freeze=") else "freeze=[encoder_stages*]" for word in tuned[:-1]]
    output = run("train.py", *whole, "run_dir=random", folder=tmp_path, ok=False)
    assert "freeze keeps 1 weight(s) that init_from=" in output and "encoder_stages.0.0.conv.weight: (4, 2," in output

    source.unlink()  # a training that goes on does not read it again
    output = run("train.py", "run_dir=tuned", "trainer.max_epochs=3", folder=tmp_path)
    again = torch.load(last, weights_only=True)
    assert again["global_step"] == 6 and again["init_from"] == now["init_from"] and again["cases"] == now["cases"]
    assert all(torch.equal(again["state_dict"][name], then["state_dict"][name]) for name in frozen)
    output = run("train.py", "run_dir=tuned", "freeze=[encoder*]", folder=tmp_path, ok=False)
    assert "freeze: ['encoder_stages.1*'] -> ['encoder*']" in output
    output = run("train.py", *tuned[:-1], "run_dir=new", folder=tmp_path, ok=False)
    assert "There is no checkpoint at init_from=" in output and "Traceback" not in output
    assert json.loads((tmp_path / "tuned" / "provenance.json").read_text())["resumes"]
