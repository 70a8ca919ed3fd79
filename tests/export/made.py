"""A checkpoint of any network of configs/model, tiny and untrained, and a folder of folds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from tests.composed import composed
from tests.models.tiny_plan import tiny_plan
from umamba.files import file_hash
from umamba.inference.ensemble import FILE, Group, write_ensemble
from umamba.inference.rules import Rule
from umamba.models.build import build_network
from umamba.plain import to_plain
from umamba.planning.plan import Plan
from umamba.resolvers import register_resolvers

MIRROR = {"_target_": "umamba.datamodules.augmentation.spatial.RandomMirror", "axes": [0, 1]}
RULE = Rule(classes=("ball",), labels=(1,), dice_before=0.5, dice_after=0.6)


def save(
    path: Path,
    *overrides: str,
    configuration: str = "3d_fullres",
    plan: Plan | None = None,
    fold: int | str = 0,
    patch: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Path:
    """A checkpoint with ten times as many numbers of its optimiser as its network has weights.

    Args:
        path: Of the file.
        *overrides: Of the config train, such as model=nnunet.
        configuration: Of the plan.
        plan: None for `tiny_plan`.
        fold: That it was trained on.
        patch: Other than the plan's.
        seed: Of the weights.
    """
    plan = plan or tiny_plan()
    if patch is not None:
        entry = dataclasses.replace(plan.configuration(configuration), patch_size=patch)
        plan = dataclasses.replace(plan, configurations={configuration: entry})
    model = _composed(overrides)
    torch.manual_seed(seed)
    network = build_network(instantiate(model["network"]), plan, configuration, model["deep_supervision"])
    with torch.no_grad():
        for parameter in network.parameters():  # biases and norms too: an initial 0 or 1 hides what is mixed up
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    content: dict[str, Any] = {
        "state_dict": weights,
        "plan": plan.to_dict(),
        "configuration": configuration,
        "config": {"model": model, "data": {"augmentation": {"mirror": MIRROR}, "fold": fold}},
        "epoch": 7,
        "optimizer_states": [{"state": {i: tensor.clone() for i, tensor in enumerate(weights.values())}}],
        "callbacks": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def save_folds(folder: Path, *overrides: str, folds: int = 2, rules: Sequence[Rule] = (RULE,), **of_save: Any) -> Path:
    """A cross-validation's folder: checkpoints and the ensemble.json."""
    paths = [
        save(folder / f"fold_{fold}" / "checkpoints" / "last.ckpt", *overrides, fold=fold, seed=fold, **of_save)
        for fold in range(folds)
    ]
    group = Group(name="nnunet", checkpoints=tuple(paths), hashes=tuple(map(file_hash, paths)))
    write_ensemble(folder / FILE, [group], rules, mirror=False, fitted_on=["a"], facts={})
    return folder


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    register_resolvers()
    return to_plain(composed("train", ["data=phantom", *overrides]).model)
