"""A training on two processes with a batch of three is the training of one process."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from miniatures import TINY, make_volumes, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="gloo over fork and signals")]


def metrics(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {k: float(v) for k, v in row.items() if v and not k.startswith("cost/")} for row in csv.DictReader(file)
        ]


def test_logged_losses_are_those_of_the_whole_batch(tmp_path):
    raw = make_volumes(tmp_path / "Dataset007_Toy")
    found = {}
    for devices in (1, 2):
        run(
            "train.py", *TINY, "data=custom", "model=nnunet", f"data.dataset_dir={raw}", "data.batch_size=3",
            "data.val_iterations=2", "test=false", f"trainer.devices={devices}", f"run_dir={tmp_path / str(devices)}",
            f"trainer.strategy={'ddp' if devices > 1 else 'auto'}", folder=tmp_path,
        )  # fmt: skip
        found[devices] = metrics(tmp_path / str(devices))
    assert len(found[1]) == len(found[2]) and any("train/loss" in row for row in found[1])
    for one, two in zip(found[1], found[2], strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5, nan_ok=True)
