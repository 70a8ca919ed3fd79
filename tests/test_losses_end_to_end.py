"""Trainings with every loss, from nothing to scores, as a user calls them; what is refused before a case is read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.miniatures import TINY, make_tumours, make_volumes, run
from umamba.locations import CONFIGS

CALL = ["data=custom", "model=nnunet", "callbacks.progress=null", "callbacks.preview=null", *TINY]
NAMES = sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml") if path.stem != "own")


def scribbled(folder: Path) -> Path:
    """One class, and an ignore label that no voxel need have."""
    make_volumes(folder)
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"]["ignore"] = 2
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_trains_with_an_ignore_label_and_deep_supervision(name: str, tmp_path: Path) -> None:
    data = scribbled(tmp_path / "Dataset931_Loss")
    weights = ["loss.class_weights=[1,2]"] * (name in ("dice_ce", "dice_topk", "focal"))
    output = run(
        "train.py", *CALL, f"data.dataset_dir={data}", f"loss={name}", *weights, "run_dir=run", folder=tmp_path
    )
    assert "Loss: " in output
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert table["train/loss"].dropna().between(-10, 10).all() and len(table["train/loss"].dropna()) == 2
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["config"]["loss"]["_target_"] == "umamba.models.build_loss.segmentation_loss"
    assert (tmp_path / "run" / "tables" / "scores.csv").is_file()


def test_a_loss_is_kept_and_refused_where_it_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mymix.py").write_text(
        "import torch\n\n\ndef squares(num_classes):\n"
        "    def loss(logits, label):\n"
        "        target = torch.nn.functional.one_hot(label, num_classes).movedim(-1, 1)\n"
        "        return (logits.float().softmax(1) - target).square().mean()\n\n"
        "    return loss\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    plain = make_volumes(tmp_path / "Dataset932_Plain")
    own = ["loss=own", "loss._target_=mymix.squares"]
    output = run("train.py", *CALL, f"data.dataset_dir={plain}", *own, "run_dir=run", folder=tmp_path)
    assert "Loss: mymix.squares." in output and (tmp_path / "run" / "tables" / "scores.csv").is_file()
    output = run("train.py", "run_dir=run", "loss=dice_topk", "max_epochs=3", folder=tmp_path, ok=False)
    assert "loss._target_: 'mymix.squares' -> 'umamba.models.build_loss.segmentation_loss'" in output
    output = run("train.py", "run_dir=run", "max_epochs=3", folder=tmp_path, ok=False)
    assert "trusted=[mymix]" in output
    run("train.py", "run_dir=run", "max_epochs=3", "test=false", "trusted=[mymix]", folder=tmp_path)

    tumours, ignored = make_tumours(tmp_path / "Dataset933_Tumours"), scribbled(tmp_path / "Dataset934_Ignored")
    for data, arguments, said in (
        (tumours, ["loss=dice_topk"], "this data set has regions, which do not"),
        (tumours, own, "regions, each an output of its own, and mymix.squares cannot be told"),
        (ignored, own, "an ignore label (2), and mymix.squares cannot be told"),
        (ignored, ["loss=ce", "loss.class_weights=[1,1,1]"], "has 3 numbers, [1, 1, 1]; expected 2"),
        (ignored, ["loss=focal", "loss.gamma=-1"], "loss.gamma=-1: expected a number, 0 or more"),
        (ignored, ["loss=null"], "loss"),
    ):
        output = run(
            "train.py", *CALL, f"data.dataset_dir={data}", *arguments, "run_dir=refused", folder=tmp_path, ok=False
        )
        assert said in " ".join(output.split()) and "Traceback" not in output, output[-2000:]
        assert not (tmp_path / "data" / "prepared" / data.name).exists() and not (tmp_path / "refused").exists()
