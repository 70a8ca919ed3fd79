"""Folds of a cross-validation without training: checkpoints of untrained networks, and the data set they belong to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tests.inference.small import MIRROR, make_plan, save_checkpoint
from umamba.planning.plan import Plan


def plan_of(cases: int = 5, classes: int = 2, patch: tuple[int, ...] = (8, 8, 8), spacing: float = 1.0) -> Plan:
    """Of `tests.inference.small`, for so many cases."""
    plan = dataclasses.replace(make_plan(classes=classes, patch=patch), num_training=cases)
    ((name, configuration),) = plan.configurations.items()
    other = dataclasses.replace(configuration, spacing=(spacing,) * len(patch))
    return dataclasses.replace(plan, configurations={name: other})


def make_fold(
    raw: Path,
    folder: Path,
    fold: int | str,
    plan: Plan | None = None,
    *,
    seed: int = 0,
    network: str = "nnunet",
    **data: Any,
) -> Path:
    """The last checkpoint of a fold in a cross-validation's folder."""
    config = {
        "data": {
            "_target_": "umamba.datamodules.custom.CustomDataModule", "dataset_dir": str(raw),
            "prepared_dir": str(raw.parent / "prepared"), "fold": fold, "augmentation": {"mirror": MIRROR}, **data,
        },
        "fold": fold, "seed": 0, "model_name": network,
    }  # fmt: skip
    path = folder / f"fold_{fold}" / "checkpoints" / "last.ckpt"
    return save_checkpoint(path, plan or plan_of(), config=config, seed=seed)


def make_folds(
    raw: Path, folder: Path, folds: tuple[int, ...] = (0, 1, 2), plan: Plan | None = None, **options: Any
) -> dict[int, Path]:
    """Fold -> its checkpoint."""
    return {fold: make_fold(raw, folder, fold, plan, seed=fold, **options) for fold in folds}
