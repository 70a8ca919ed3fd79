"""Checkpoints that know a data set, and the configuration of eval.py, for tests of what may be scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tests.composed import composed
from tests.inference.small import save_checkpoint
from umamba.planning.plan import Plan


def checkpoint_of(raw: Path, name: str, plan: Plan, *, seed: int = 0, fold: int = 0, **data: Any) -> Path:
    """Of an untrained network, beside the data set at `raw` that it knows; `data` go to its data module."""
    data = {
        "_target_": "umamba.datamodules.custom.CustomDataModule", "dataset_dir": str(raw),
        "prepared_dir": str(raw.parent / "prepared"), "fold": fold, "augmentation": None, **data,
    }  # fmt: skip
    cases = json.loads((raw / "dataset.json").read_text())["numTraining"]
    plan = Plan.from_dict({**plan.to_dict(), "num_training": cases})
    return save_checkpoint(raw.parent / name, plan, config={"data": data, "fold": fold, "seed": 0}, seed=seed)


def eval_config(output: Path, *overrides: str) -> DictConfig:
    """Of eval.py."""
    return composed("eval", [f"output={output}", "workers=0", "device=cpu", *overrides])
